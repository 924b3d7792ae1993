"""The way to the engine, as a generation's task goes it: offer, wait for a place, work, leave. The thin shell around `admission.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from keyahead.service.admission import Act, Admission, Effect, Ticket
from keyahead.service.cold import PrefillRate, ReadPrompts
from keyahead.service.metrics import QUEUE, Metrics
from keyahead.service.model import Deadline, Overloaded
from keyahead.service.prompt import Prompt


@dataclass(slots=True)
class _Entry:
    prompt: Prompt
    cold_tokens: int
    offered: float
    start: asyncio.Future[bool]
    noted: bool = False


class Gate:
    """One for each process. What the engine has read, and how fast, is learned here from the generations that pass."""

    def __init__(self, places: int, read: ReadPrompts, rate: PrefillRate, metrics: Metrics) -> None:
        self._admission = Admission(places)
        self._read = read
        self._rate = rate
        self._metrics = metrics
        self._entries: dict[Ticket, _Entry] = {}

    def offer(self, ticket: Ticket, prompt: Prompt, cold_tokens: int) -> None:
        """Take a generation's ticket; `run` must follow. Raises Overloaded."""
        now = time.monotonic()
        try:
            effects = self._admission.offer(ticket, now)
        except Overloaded:
            self._count(ticket, "refuse")
            raise
        self._entries[ticket] = _Entry(prompt, cold_tokens, now, asyncio.get_running_loop().create_future())
        self._apply(effects)

    async def run(self, ticket: Ticket, work: Callable[[], Awaitable[None]], deadline: Deadline) -> None:
        """Wait for the place, at most until the deadline, then work; work that got none is stopped before it begins."""
        entry = self._entries[ticket]
        try:
            started = await self._started(entry, deadline)
            self._metrics.stages.labels(QUEUE).observe(time.monotonic() - entry.offered)
            if not started:
                ticket.work.stop()
            await work()
        finally:
            self._note(ticket, entry)
            del self._entries[ticket]
            self._apply(self._admission.leave(ticket, time.monotonic()))

    def note_progress(self) -> None:
        """Learn from the generations that run which prompts have been read."""
        for ticket in self._admission.running:
            self._note(ticket, self._entries[ticket])

    async def _started(self, entry: _Entry, deadline: Deadline) -> bool:
        try:
            async with asyncio.timeout(max(0.0, deadline.remaining())):
                return await entry.start
        except TimeoutError:
            return False

    def _note(self, ticket: Ticket, entry: _Entry) -> None:
        first = ticket.work.first_token_at
        if entry.noted or first is None or ticket.started is None:
            return
        entry.noted = True
        self._read.add(ticket.tenant, entry.prompt.tokens)
        if ticket.alone:
            self._rate.observe(entry.cold_tokens, first - ticket.started)

    def _apply(self, effects: list[Effect]) -> None:
        for act, ticket in effects:
            self._count(ticket, act.value)
            if act is Act.EVICT:
                ticket.work.stop()
            elif not (start := self._entries[ticket].start).done():
                start.set_result(act is Act.START)

    def _count(self, ticket: Ticket, outcome: str) -> None:
        self._metrics.admission.labels(ticket.work_class, outcome).inc()
