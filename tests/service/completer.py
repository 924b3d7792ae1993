"""A completer that does as told, for tests of the server before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from keyahead.service.model import Answer, Deadline, Delta, FinishReason, Outcome, Query, Source

ANSWER = Answer("return a + b", FinishReason.STOP, Source.ENGINE, 30, 5)
Events = AsyncIterator[Delta | Answer]


async def answer_at_once(_: Query, __: Deadline) -> Events:
    """Two deltas and the answer."""
    yield Delta("return a")
    yield Delta(" + b")
    yield ANSWER


async def hang(_: Query, __: Deadline) -> Events:
    """One delta, then nothing for a minute."""
    yield Delta("x")
    await asyncio.sleep(60)


@dataclass
class Scripted:
    """A completer that does what it is told and remembers what it was asked."""

    script: Callable[[Query, Deadline], Events] = answer_at_once
    ready: bool = True
    queries: list[Query] = field(default_factory=list)
    budgets_s: list[float] = field(default_factory=list)
    warmed: list[Query] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    closed: int = 0
    released: bool = False

    async def complete(self, query: Query, deadline: Deadline) -> AsyncIterator[Delta | Answer]:
        """Run the script."""
        self.queries.append(query)
        self.budgets_s.append(deadline.remaining())
        try:
            async for event in self.script(query, deadline):
                yield event
        finally:
            self.closed += 1

    def cool(self, query: Query) -> None:
        pass

    def warm(self, query: Query) -> None:
        """Remember the query."""
        self.warmed.append(query)

    def outcome(self, tenant: str, outcome: Outcome) -> None:
        """Remember the outcome."""
        self.outcomes.append(outcome)

    async def aclose(self) -> None:
        """Remember the release."""
        self.released = True
