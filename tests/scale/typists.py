"""People typing through Envoy, as the load test's typists do; and what became of each of their calls."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
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
WINDOW_S = 5.0
"""Calls of so long make a percentile."""
STEP_S = 0.25
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

    async def _ask(self, typist: int, ask: Ask) -> Answer:
        session, sent = self.sessions[typist], time.monotonic()
        metadata = [self._metadata, ("x-session-id", session)]
        call = self._stubs[typist].Complete(rpc.request(ask, session), timeout=rpc.TIMEOUT_S, metadata=metadata)
        code = grpc.StatusCode.OK
        try:
            return rpc.answer(await call)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise rpc.no_answer(code) from None
        finally:
            if call.done() and not call.cancelled():
                self.calls.append(Call(session, sent, time.monotonic(), code, await _service(call)))


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


def at_service(calls: Iterable[Call], address: str) -> Callable[[Call], bool]:
    """Whether a call was at a service: Envoy says so or, if it does not, the session's calls so far were."""
    homes = services(calls)
    return lambda call: address == call.service or (not call.service and address in homes[call.session])


def strays(calls: Iterable[Call], at: float, was_there: Callable[[Call], bool]) -> list[Call]:
    """Calls lost since a moment that were not in flight, at that moment, where something was killed."""
    return [call for call in calls if call.lost and call.done >= at and not (call.sent <= at and was_there(call))]


def p99(calls: Iterable[Call], start: float, end: float) -> float:
    """Of the calls sent then and answered, in seconds; NaN if there are none."""
    taken = sorted(call.done - call.sent for call in calls if start <= call.sent < end and call.code is grpc.StatusCode.OK)
    return taken[max(0, math.ceil(0.99 * len(taken)) - 1)] if taken else math.nan


def back_after(calls: Iterable[Call], at: float, until: float, limit_s: float) -> float:
    """Seconds from a moment on until the p99 of a window is within the limit again; infinity if it is not by the end."""
    calls, start = list(calls), at
    while start + WINDOW_S <= until:
        if p99(calls, start, start + WINDOW_S) <= limit_s:
            return start - at
        start += STEP_S
    return math.inf
