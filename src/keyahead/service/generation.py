"""One decode in flight, which several requests may wait for and which may outlive them all.

A request joins a running generation when what its user has typed since agrees with what has been decoded. When its time runs out it takes
the best so far, and the generation goes on into the cache, so that the next key finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from dataclasses import dataclass, field

from keyahead.cache import Scope
from keyahead.engine.contract import Array, EngineRequest, WorkClass
from keyahead.service.decoding import Decoding
from keyahead.service.engine_client import Decode, EngineClient, EngineError
from keyahead.service.model import Deadline, EngineUnavailable, FinishReason, Superseded, Timings
from keyahead.service.prompt import Prompt
from keyahead.service.speculation import Call, Speculation


@dataclass(frozen=True, slots=True)
class Place:
    """Where a suggestion is asked for."""

    scope: Scope
    prefix: str
    suffix: str


@dataclass(eq=False)
class Waiter:
    """One request, waiting."""

    place: Place
    deadline: Deadline
    work_class: WorkClass
    event: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is something new to look at."""
    superseded: bool = False
    """A newer request of the same session has come."""
    timings: Timings = field(default_factory=Timings)

    def supersede(self) -> None:
        """Tell it that a newer request has come."""
        self.superseded = True
        self.event.set()

    async def wait(self, until: float | None = None) -> None:
        """Until something has changed, time is up, or the given moment has come; Superseded when a newer request has come."""
        at = self.deadline.at if until is None else min(until, self.deadline.at)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, at - time.monotonic())):
                await self.event.wait()
        self.event.clear()
        if self.superseded:
            raise Superseded


@dataclass(eq=False)
class Generation:
    """A decode for one place."""

    place: Place
    prompt: Prompt
    decoding: Decoding
    request: EngineRequest
    """What every engine call of this generation has in common."""
    bias: Array | None
    """Makes the first token begin with the healed text."""
    speculation: Speculation
    """Which calls to make."""
    deadline: Deadline
    """When even the cache has no use for it any more."""
    waiters: set[Waiter] = field(default_factory=set)
    error: Exception | None = None
    """Why it ended without a result."""
    first_token_at: float | None = None
    """On the monotonic clock."""
    done: bool = False
    _decode: Decode | None = None

    def agrees(self, place: Place) -> bool:
        """Whether a request at this place, at or behind our own, can be answered from here."""
        mine = self.place
        if self.error is not None or mine.scope != place.scope or mine.suffix != place.suffix or not place.prefix.startswith(mine.prefix):
            return False
        typed, text = place.prefix[len(mine.prefix) :], self.decoding.text
        return text.startswith(typed) or (not self.done and typed.startswith(text))

    @property
    def wanted(self) -> bool:
        """Whether a request waits for it that still counts."""
        return any(not waiter.superseded for waiter in self.waiters)

    async def run(self, engine: EngineClient) -> None:
        """Decode to the end or the deadline, from where an engine that was lost had got to.

        Raises what the engine fails with; `end` must follow.
        """
        self.first_token_at = None
        first = True
        try:
            async with asyncio.timeout(max(0.0, self.deadline.remaining())):  # An engine may know no deadlines.
                while self.decoding.finish is None:
                    await self._make(self.speculation.next_call(), engine, first=first)
                    first = False
        except TimeoutError:
            self.decoding.finish = FinishReason.DEADLINE

    def end(self, error: Exception | None) -> None:
        """It is over: whoever waits looks, and passes a defect on to the crash boundary."""
        if isinstance(error, EngineError) and self.deadline.remaining() <= 0:
            self.decoding.finish = self.decoding.finish or FinishReason.DEADLINE  # What there is, is still worth keeping.
        else:
            self.error = error or self.error
        self.done = True
        self._wake()

    def stop(self) -> None:
        """Nobody wants it any more: free the engine."""
        self.error = self.error or EngineUnavailable("stopped")
        if self._decode is not None:
            self._decode.stop()

    async def _make(self, call: Call, engine: EngineClient, *, first: bool) -> None:
        """One engine call, read until the engine ends it or a stop rule does."""
        if self.error is not None:
            raise self.error
        began = time.monotonic()
        tokens: list[int] = []
        perf = None
        self._decode = engine.decode(self._request(call))
        try:
            async for response in self._decode:
                tokens += response.output_ids
                perf = response.perf or perf
                self.speculation.received(call, response.output_ids, response.log_probs)
                self.first_token_at = self.first_token_at or time.monotonic()
                self._wake()
                if call.streaming and self.decoding.finish is not None:
                    return
        finally:
            self._decode.stop()
        if self.error is not None:
            raise self.error
        self.speculation.ended(call, tokens, perf, (time.monotonic() - began) * 1e3, first=first)

    def _request(self, call: Call) -> EngineRequest:
        return dataclasses.replace(
            self.request,
            work_class=self._work_class(),
            input_ids=self.speculation.input_ids,
            max_new_tokens=call.max_new_tokens,
            draft_ids=call.draft.tokens if call.draft else (),
            embedding_bias=self.bias if call.biased else None,
            # A call of one step is watched token by token here; and a stop word may be the very text that is healed, a line end for one.
            stop_words=self.request.stop_words if call.streaming else (),
            streaming=call.streaming,
            # Never on a stream: TensorRT-LLM crashes when one with log-probabilities is cancelled (its issue 10810).
            return_log_probs=not call.streaming,
            return_perf_metrics=True,
            deadline_ms=max(1, int(self.deadline.remaining() * 1e3)),
        )

    def _work_class(self) -> WorkClass:
        """The most urgent of what it was begun for and who waits now: who joins a prefetch is not to wait as one."""
        waiting = (waiter.work_class for waiter in self.waiters if not waiter.superseded)
        return min((self.request.work_class, *waiting), key=tuple(WorkClass).index)

    def _wake(self) -> None:
        for waiter in self.waiters:
            waiter.event.set()
