"""A completer that does as told, for tests of the server before it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from keyahead.service.model import Answer, Deadline, FinishReason, Outcome, Query, Show, Source

ANSWER = Answer("return a + b", FinishReason.STOP, Source.ENGINE, 30, 5)


async def answer_at_once(_: Query, __: Deadline, show: Show) -> Answer:
    """Two deltas and the answer."""
    await show("return a")
    await show(" + b")
    return ANSWER


async def hang(_: Query, __: Deadline, show: Show) -> Answer:
    """One delta, then nothing for a minute."""
    await show("x")
    await asyncio.sleep(60)
    return ANSWER


@dataclass
class Scripted:
    """A completer that does what it is told and remembers what it was asked."""

    script: Callable[[Query, Deadline, Show], Awaitable[Answer]] = answer_at_once
    ready: bool = True
    held: Answer | None = None
    """At hand."""
    queries: list[Query] = field(default_factory=list)
    budgets_s: list[float] = field(default_factory=list)
    warmed: list[Query] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    closed: int = 0
    released: bool = False

    def at_hand(self, query: Query) -> Answer | None:
        """Nothing, unless a test puts it there."""
        return self.held

    async def complete(self, query: Query, deadline: Deadline, show: Show) -> Answer:
        """Run the script."""
        self.queries.append(query)
        self.budgets_s.append(deadline.remaining())
        try:
            return await self.script(query, deadline, show)
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
