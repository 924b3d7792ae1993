"""People typing through Envoy, as the load test's typists do; and what became of each of their calls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from keyahead.loadtest import rpc, texts
from keyahead.loadtest.judge import Answer, Ask
from keyahead.loadtest.plan import make_plan
from keyahead.loadtest.replay import replay
from keyahead.loadtest.typist import Typist
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc
from tests.scale.processes import SERVED_BY, TENANT, Whole

SEED = 5
LONGEST_S = 900.0
"""People type on until they are told to end."""
PATIENCE_S = 30.0
WINDOW_S = 5.0
"""Calls of so long make a percentile."""
STEP_S = 0.25
NOTICE_S = 0.2
"""Until Envoy, or a service, on a busy machine has read that a connection is closed. What it sends there till then is lost, too."""
AT_WORK_S = 0.02
"""Who has waited so long has not been answered from memory."""
_FINE = (grpc.StatusCode.OK, grpc.StatusCode.ABORTED)
"""Answered, or obsolete since the typist has hit another key."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call. Times are on the monotonic clock."""

    session: str
    sent: float
    done: float
    code: grpc.StatusCode
    service: str
    """Address of the service that Envoy sent it to last; empty if Envoy does not say."""
    has_text: bool = False
    """Whether it was answered with anything to show."""

    @property
    def lost(self) -> bool:
        """Whether its caller got neither an answer nor a reason of the caller's own making; a refusal with a hint when to retry is one."""
        return self.code not in {*_FINE, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Typists:
    """So many people, each a session on a connection of its own."""

    def __init__(self, whole: Whole, count: int) -> None:
        sources = texts.from_folder()
        self._typists = [Typist(make_plan(sources, SEED, number, count, LONGEST_S, repeat=True)) for number in range(count)]
        run = uuid.uuid4().hex[:8]
        self.sessions = [f"{run}-{number}" for number in range(count)]
        self.calls: list[Call] = []
        self._in_flight: dict[int, tuple[str, float]] = {}
        """Session, and when it was sent."""
        self._numbers = itertools.count()
        self._metadata = ("authorization", f"Bearer {whole.site.authority.jwt(tenant=TENANT, exp=int(time.time() + 2 * LONGEST_S))}")
        credentials = whole.site.authority.credentials()
        options = list(rpc.CHANNEL_OPTIONS)
        self._channels = [grpc.aio.secure_channel(whole.edge.editors, credentials, options) for _ in self._typists]
        self._stubs: list[Any] = [pb_grpc.AutocompleteStub(channel) for channel in self._channels]

    async def run(self) -> None:
        """Type until cancelled."""
        await replay(self._typists, self._ask, LONGEST_S)

    async def aclose(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close(None)

    async def homes(self, sessions: Iterable[str]) -> dict[str, str]:
        """The services of sessions, each asked something that costs nothing."""
        found = {}
        for each in sessions:
            call = self._stubs[0].Report(pb.ReportRequest(request_id="none"), timeout=10, metadata=[self._metadata, ("x-session-id", each)])
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call
            found[each] = await _service(call)
        return found

    def in_flight(self, sessions: Collection[str]) -> int:
        """How many calls of these sessions somebody works on."""
        now = time.monotonic()
        return sum(session in sessions and now - sent > AT_WORK_S for session, sent in self._in_flight.values())

    async def at_work(self, sessions: Collection[str]) -> None:
        """Wait until there is one; not forever, since they may all be thinking."""
        give_up = time.monotonic() + PATIENCE_S
        while not self.in_flight(sessions) and time.monotonic() < give_up:
            await asyncio.sleep(0.002)

    async def _ask(self, typist: int, ask: Ask) -> Answer:
        session, sent, number = self.sessions[typist], time.monotonic(), next(self._numbers)
        self._in_flight[number] = session, sent
        metadata = [self._metadata, ("x-session-id", session)]
        call = self._stubs[typist].Complete(rpc.request(ask, session), timeout=rpc.TIMEOUT_S, metadata=metadata)
        code, has_text = grpc.StatusCode.OK, False
        try:
            answer = rpc.answer(await call)
            has_text = bool(answer.text)
            return answer
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise rpc.no_answer(code) from None
        finally:
            del self._in_flight[number]
            if call.done() and not call.cancelled():
                self.calls.append(Call(session, sent, time.monotonic(), code, await _service(call), has_text))


@contextlib.asynccontextmanager
async def typing(whole: Whole, count: int) -> AsyncIterator[Typists]:
    """People typing, until the end of the block."""
    people = Typists(whole, count)
    task = asyncio.create_task(people.run())
    try:
        yield people
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await people.aclose()


async def _service(call: Any) -> str:
    found = [*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())]
    return next((str(value) for key, value in found if key == SERVED_BY), "")


def services(calls: Iterable[Call]) -> dict[str, Counter[str]]:
    """How many calls of each session each service has answered."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for call in calls:
        if call.code in _FINE and call.service:
            found[call.session][call.service] += 1
    return found


def at_home(calls: Iterable[Call]) -> float:
    """The share of calls that their session's usual service has answered. The others are what was too much for it at once."""
    counts = services(calls).values()
    return sum(max(each.values()) for each in counts) / sum(each.total() for each in counts)


def at_service(homes: Mapping[str, str], address: str) -> Callable[[Call], bool]:
    """Whether a call was at a service: Envoy says so or, if it does not, its session is at home there."""
    return lambda call: (call.service or homes[call.session]) == address


def strays(calls: Iterable[Call], at: float, was_there: Callable[[Call], bool]) -> list[Call]:
    """Calls lost since a moment that were not in flight, at that moment, where something was killed."""
    return [call for call in calls if call.lost and call.done >= at and not (call.sent <= at + NOTICE_S and was_there(call))]


def p99(calls: Iterable[Call], start: float, end: float) -> float:
    """Of the calls sent then and answered, in seconds; NaN if there are none."""
    taken = sorted(call.done - call.sent for call in calls if start <= call.sent < end and call.code is grpc.StatusCode.OK)
    return taken[max(0, math.ceil(0.99 * len(taken)) - 1)] if taken else math.nan


def with_text(calls: Iterable[Call], start: float, end: float) -> float:
    """Of the calls sent then and answered, the share that has text; NaN if there are none."""
    answered = [call.has_text for call in calls if start <= call.sent < end and call.code is grpc.StatusCode.OK]
    return sum(answered) / len(answered) if answered else math.nan


def back_after(calls: Iterable[Call], at: float, until: float, limit_s: float) -> float:
    """Seconds from a moment on until the p99 of a window is within the limit again; infinity if it is not by the end."""
    calls, start = list(calls), at
    while start + WINDOW_S <= until:
        if p99(calls, start, start + WINDOW_S) <= limit_s:
            return start - at
        start += STEP_S
    return math.inf
