"""Prompts that the engine reads before anybody asks: those of documents just opened, and whole ones behind shortened ones.

What they leave is KV, nothing else.
"""

from __future__ import annotations

import asyncio
import time

from keyahead.engine.contract import EngineRequest, WorkClass
from keyahead.service.admission import Ticket
from keyahead.service.cold import PrefillRate, ReadPrompts
from keyahead.service.engine_client import Decode, EngineClient, EngineError
from keyahead.service.gate import Gate
from keyahead.service.model import Deadline, EngineUnavailable, Overloaded
from keyahead.service.prompt import Prompt

DEADLINE_S = 10.0
"""A prompt that has not been read by then, about the longest at 150 tokens/s, is not worth the engine's time."""
_OPEN_END = 32
"""Tokens at a prompt's end that may differ without reading the new one instead: what has been typed meanwhile."""

Key = tuple[str, str]
"""Tenant and session id."""


class _Reading:
    """One prompt being read."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.first_token_at: float | None = None
        self.wanted = False
        self._stopped = False
        self._decode: Decode | None = None

    async def run(self, engine: EngineClient, request: EngineRequest) -> None:
        """Until the engine has read it, or will not."""
        if self._stopped:
            return
        try:
            self._decode = engine.decode(request)
            async with asyncio.timeout(DEADLINE_S):  # An engine may know no deadlines.
                async for _ in self._decode:
                    self.first_token_at = self.first_token_at or time.monotonic()
        except TimeoutError:
            self.stop()
        except (EngineError, EngineUnavailable, Overloaded):
            return

    def stop(self) -> None:
        """Somebody needs the engine, or another prompt is wanted."""
        self._stopped = True
        if self._decode is not None:
            self._decode.stop()

    def covers(self, prompt: Prompt) -> bool:
        """Whether another prompt of its session begins as this one, but for the end."""
        length = max(0, len(self.prompt.tokens) - _OPEN_END)
        return prompt.tokens[:length] == self.prompt.tokens[:length]


class ReadAhead:
    """The prompts being read, at most one for each session."""

    def __init__(self, gate: Gate, engine: EngineClient, read: ReadPrompts, rate: PrefillRate) -> None:
        self._gate = gate
        self._engine = engine
        self._read = read
        self._rate = rate
        self._readings: dict[Key, _Reading] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, key: Key, prompt: Prompt, weight: int) -> None:
        """Have a session's prompt read, if the engine has a place for it."""
        older = self._readings.get(key)
        if older is not None:
            if older.covers(prompt):
                return
            older.stop()
        tenant = key[0]
        cold = self._read.cold_tokens(tenant, prompt.tokens)
        deadline = Deadline.after(DEADLINE_S)
        reading = _Reading(prompt)
        ticket = Ticket(tenant, WorkClass.WARMING, deadline.at, self._rate.seconds(cold), reading, weight)
        request = EngineRequest(
            input_ids=prompt.tokens,
            deadline_ms=int(DEADLINE_S * 1e3),
            namespace=tenant,
            work_class=WorkClass.WARMING,
            weight=weight,
        )
        try:
            self._gate.offer(ticket, prompt, cold)
        except Overloaded:
            return
        task = asyncio.create_task(self._gate.run(ticket, lambda: reading.run(self._engine, request), deadline), name="read-ahead")
        self._readings[key] = reading
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._forget(key, reading, task))

    def stop(self, key: Key) -> None:
        """A session's prompt need not be read any further; what has been read stays."""
        reading = self._readings.get(key)
        if reading is not None:
            reading.stop()

    async def aclose(self) -> None:
        """Wait for the last; the engine is closed before."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget(self, key: Key, reading: _Reading, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._readings.get(key) is reading:
            del self._readings[key]
