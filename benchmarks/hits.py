"""What the service itself costs: hits from memory and from Redis end to end, its overhead over the engine, a second process's cold start.

Starts a stack of its own. Simulated people's requests are answered once by hand, so that whole suggestions lie in the cache. Then they are
typed through at 100 requests a second: at the service that has them in memory, and at others that find them in Redis. In turns with them
stands what an empty call costs (gRPC's own health check), client, server and two cores included.

The client is libcurl, one written in C as editors are, on one thread and one connection, by its own clock. In turns with it stands Python's
gRPC client, the plain blocking one, which takes longer itself: threads of its own have to be woken for each call. A call is sent at its
moment or, if the one before has not ended by then, late. How late is told apart.
"""

from __future__ import annotations

import itertools
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pycurl
from common import MODEL, SEED, Figure, arguments, model_folder, report_figures
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import Service, Stack, another_service, running_stack

from keyahead.cli.infilling import percentile
from keyahead.engine import catalogue
from keyahead.loadtest import texts
from keyahead.loadtest.plan import make_plan
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb

RATE = 100.0
"""Requests a second."""
PLACES = 40
TURN_S = 1.0
"""Empty calls and hits take turns of so long."""
OTHERS = 3
"""Service processes started one after the other on the same Redis: each finds a place there once, and then has it in memory."""
TIMEOUT_S = 20.0
COMPLETE = "/keyahead.v1.Autocomplete/Complete"
HEALTH = "/grpc.health.v1.Health/Check"

Place = tuple[str, str, str]
"""Path, prefix and suffix of a request."""
Complete = Callable[[pb.CompleteRequest], pb.CompleteResponse]
Asked = TypeVar("Asked")
Timed = Callable[[Asked], tuple[Any, float]]
"""A call; its answer and how many milliseconds it took."""


@dataclass
class Seen:
    """What came of some calls; times in milliseconds."""

    answers: list[Any] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    """From sending."""
    late: list[float] = field(default_factory=list)
    """From the intended moment to sending."""

    def of(self, source: Any) -> list[float]:
        """The times of the answers from one source, sorted."""
        return sorted(took for answer, took in zip(self.answers, self.took, strict=True) if answer.source == source)


def places(count: int = PLACES) -> list[Place]:
    """Requests that people would make."""
    rng = random.Random(SEED)  # noqa: S311 - places, not secrets
    sources = texts.from_folder()
    found = []
    for typist in range(count):
        plan = make_plan(sources, SEED, typist, count, 60.0)
        key = rng.choice([key for key in plan.keys if key.asks and not key.mistake])
        passage = plan.passages[key.passage]
        found.append((passage.path, passage.before + passage.typed[: key.position], passage.after))
    return found


def request(place: Place, trigger: Any) -> pb.CompleteRequest:
    """A request of nobody's session."""
    path, prefix, suffix = place
    return pb.CompleteRequest(document=pb.Document(path=path, split=pb.SplitText(prefix=prefix, suffix=suffix)), trigger=trigger)


def fill(complete: Complete, asked: Sequence[Place]) -> list[pb.CompleteRequest]:
    """Have places answered whole; the requests that type through the answers, each with one to all but the last two characters typed."""
    hits = []
    for place in asked:
        path, prefix, suffix = place
        text = complete(request(place, pb.TRIGGER_MANUAL)).text
        hits += [request((path, prefix + text[:typed], suffix), pb.TRIGGER_AUTOMATIC) for typed in range(len(text) - 2)]
    random.Random(SEED).shuffle(hits)  # noqa: S311
    return hits


def at_rate(call: Timed[Asked], asked: Iterable[Asked], seen: Seen, rate: float = RATE) -> None:
    """Make calls at a rate, one after the other."""
    start = time.monotonic()
    for number, each in enumerate(asked):
        due = start + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        seen.late.append((time.monotonic() - due) * 1e3)
        answer, took = call(each)
        seen.answers.append(answer)
        seen.took.append(took)


def curl(service: Service, method: str, response: type[Message]) -> Timed[Message]:
    """A client in C on a connection of its own; HTTP/2 without TLS, its clock runs from sending to the last byte."""
    handle, received = pycurl.Curl(), list[bytes]()
    handle.setopt(handle.URL, f"http://{service.address}{method}")
    handle.setopt(handle.HTTP_VERSION, handle.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
    handle.setopt(handle.HTTPHEADER, ["content-type: application/grpc", "te: trailers", "expect:"])
    handle.setopt(handle.TIMEOUT, int(TIMEOUT_S))
    handle.setopt(handle.WRITEFUNCTION, received.append)

    def call(message: Message) -> tuple[Message, float]:
        received.clear()
        raw = message.SerializeToString()
        handle.setopt(handle.POSTFIELDS, struct.pack(">xI", len(raw)) + raw)  # gRPC's prefix: not compressed, and the length
        handle.perform()
        if not received:
            raise RuntimeError(f"{method} was refused")  # Why stands in the trailers.
        return response.FromString(b"".join(received)[5:]), handle.getinfo(handle.TOTAL_TIME) * 1e3

    return call


def timed(call: Callable[[Asked], Any]) -> Timed[Asked]:
    """A call by a clock around it."""

    def around(asked: Asked) -> tuple[Any, float]:
        sent = time.monotonic()
        answer = call(asked)
        return answer, (time.monotonic() - sent) * 1e3

    return around


def complete_of(service: Service) -> Complete:
    """Python's blocking client on a connection of its own."""
    stub = service.stub()
    return lambda request: stub.Complete(request, timeout=TIMEOUT_S)


def check_of(service: Service) -> Callable[[health_pb2.HealthCheckRequest], health_pb2.HealthCheckResponse]:
    """It again, for empty calls."""
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(service.address, [("grpc.use_local_subchannel_pool", 1)]))
    return lambda request: stub.Check(request, timeout=TIMEOUT_S)


def ask(service: Service, hits: Sequence[pb.CompleteRequest], seconds: float) -> list[Seen]:
    """Hits and empty calls by curl, then both by Python, in turns."""
    nothing = [health_pb2.HealthCheckRequest()]
    kinds: list[tuple[Timed[Any], Sequence[Message]]] = [
        (curl(service, COMPLETE, pb.CompleteResponse), hits),
        (curl(service, HEALTH, health_pb2.HealthCheckResponse), nothing),
        (timed(complete_of(service)), hits),
        (timed(check_of(service)), nothing),
    ]
    streams = [(call, itertools.cycle(asked), Seen()) for call, asked in kinds]
    for _ in range(int(seconds / TURN_S)):
        for call, asked, seen in streams:
            at_rate(call, itertools.islice(asked, int(TURN_S * RATE)), seen)
    return [seen for _, _, seen in streams]


def figures_of(name: str, meaning: str, times: Sequence[float], bound: float | None = None) -> list[Figure]:
    """Median and p99 of times, which are sorted."""
    return [
        Figure(f"{name}_p50", f"{meaning}, p50 of {len(times)}", percentile(times, 0.5), "ms"),
        Figure(f"{name}_p99", "the same, p99", percentile(times, 0.99), "ms", at_most=bound),
    ]


def overhead(answers: Sequence[pb.CompleteResponse]) -> list[Figure]:
    """Everything but the engine, by the service's own clock, of all answers."""
    spent = sorted(answer.timings_ms.total - answer.timings_ms.first_token - answer.timings_ms.decode for answer in answers)
    sources = Counter(pb.Source.Name(answer.source).removeprefix("SOURCE_").lower() for answer in answers)
    baseline = ", ".join(f"{count} {source}" for source, count in sources.most_common())
    return [
        Figure("overhead_p50", "service overhead, p50", percentile(spent, 0.5), "ms", baseline, at_most=1.5),
        Figure("overhead_p99", "service overhead, p99", percentile(spent, 0.99), "ms", "", at_most=5.0),
    ]


def hit_share(seen: Seen) -> float:
    """Part of the answers that came without the engine."""
    return sum(answer.source in {pb.SOURCE_MEMORY, pb.SOURCE_REDIS} for answer in seen.answers) / len(seen.answers)


def from_redis(stack: Stack, hits: Sequence[pb.CompleteRequest], seconds: float) -> tuple[list[float], float]:
    """Times of hits in Redis, of several service processes, and the first one's hit share from its start."""
    times: list[float] = []
    shares = []
    for _ in range(OTHERS):
        with another_service(stack, model_folder(catalogue.get(MODEL))) as second:
            seen = Seen()
            at_rate(curl(second, COMPLETE, pb.CompleteResponse), hits[: int(seconds * RATE)], seen)
        times += seen.of(pb.SOURCE_REDIS)
        shares.append(hit_share(seen))
    return sorted(times), shares[0]


def measure(stack: Stack, seconds: float) -> list[Figure]:
    """All figures."""
    hits = fill(complete_of(stack.service), places())
    seen, empty, by_python, empty_by_python = ask(stack.service, hits, seconds)
    times, cold = from_redis(stack, hits, seconds / 2)
    share = hit_share(seen)
    return [
        *figures_of("empty", "an empty call, from sending", sorted(empty.took)),
        *figures_of("memory", "hit from memory, from sending", seen.of(pb.SOURCE_MEMORY), 2.0),
        *figures_of("redis", "hit from Redis, from sending", times, 5.0),
        *figures_of("python_empty", "by Python's client: an empty call", sorted(empty_by_python.took)),
        *figures_of("python_memory", "by Python's client: hit from memory", by_python.of(pb.SOURCE_MEMORY)),
        *figures_of("late", "how late the client sends", sorted(seen.late)),
        *overhead(seen.answers),
        Figure("second_share", "hit share of another process, from its start", cold / share, "times", f"first: {share:.2f}", at_least=0.95),
    ]


def main() -> None:
    options = arguments(__doc__, limit=20)
    with running_stack() as stack:
        figures = measure(stack, options.limit)
    report_figures(Path(__file__).stem, figures, as_json=options.json)


if __name__ == "__main__":
    main()
