"""What the service itself costs: hits from memory and from Redis end to end, its overhead over the engine, a second process's cold start.

Starts a stack of its own. Simulated people's requests are answered once by hand, so that whole suggestions lie in the cache. Then they are
typed through at 100 requests a second, an open loop: at the service that has them in memory, and at a second one that finds them in Redis.
Beside them stands what an empty call costs (gRPC's own health check), client, server and two cores included.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import uvloop
from common import MODEL, SEED, Figure, arguments, model_folder, report_figures
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import Service, Stack, another_service, running_stack

from keyahead.cli.infilling import percentile
from keyahead.engine import catalogue
from keyahead.loadtest import texts
from keyahead.loadtest.plan import make_plan
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

RATE = 100.0
"""Requests a second."""
PLACES = 40
TIMEOUT_S = 20.0


def places() -> list[tuple[str, str, str]]:
    """Path, prefix and suffix of requests that people would make."""
    rng = random.Random(SEED)  # noqa: S311 - places, not secrets
    sources = texts.from_folder()
    found = []
    for typist in range(PLACES):
        plan = make_plan(sources, SEED, typist, PLACES, 60.0)
        key = rng.choice([key for key in plan.keys if key.asks and not key.mistake])
        passage = plan.passages[key.passage]
        found.append((passage.path, passage.before + passage.typed[: key.position], passage.after))
    return found


def request(path: str, prefix: str, suffix: str, trigger: Any) -> pb.CompleteRequest:
    """A request of nobody's session."""
    return pb.CompleteRequest(document=pb.Document(path=path, split=pb.SplitText(prefix=prefix, suffix=suffix)), trigger=trigger)


def fill(service: Service) -> list[tuple[str, str, str]]:
    """Have the places answered whole; what can then be typed through: each with one to all but the last two characters typed."""
    stub = service.stub()
    hits = []
    for path, prefix, suffix in places():
        text = stub.Complete(request(path, prefix, suffix, pb.TRIGGER_MANUAL), timeout=TIMEOUT_S).text
        hits += [(path, prefix + text[:typed], suffix) for typed in range(len(text) - 2)]
    return hits


async def at_rate(call: Callable[[int], Awaitable[Any]], seconds: float) -> tuple[list[Any], list[float]]:
    """Make calls at the rate; what they give, and milliseconds from each one's intended moment."""
    results: list[Any] = []
    times: list[float] = []

    async def timed(number: int, at: float) -> None:
        result = await call(number)
        times.append((time.monotonic() - at) * 1e3)
        results.append(result)

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * RATE)):
            at = start + number / RATE
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            group.create_task(timed(number, at))
    return results, times


async def ask_all(service: Service, hits: list[tuple[str, str, str]], seconds: float) -> tuple[list[pb.CompleteResponse], list[float]]:
    """Ask for hits."""
    requests = [request(*hit, pb.TRIGGER_AUTOMATIC) for hit in hits]
    async with grpc.aio.insecure_channel(service.address) as channel:
        stub = pb_grpc.AutocompleteStub(channel)
        return await at_rate(lambda number: stub.Complete(requests[number % len(requests)], timeout=TIMEOUT_S), seconds)


async def empty_calls(service: Service, seconds: float) -> list[float]:
    """Ask for nothing."""
    async with grpc.aio.insecure_channel(service.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        _, times = await at_rate(lambda _: stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S), seconds)
        return sorted(times)


def figures_of(name: str, source: Any, answers: list[pb.CompleteResponse], times: list[float], bound: float) -> list[Figure]:
    """Latency of the hits from one tier."""
    own = sorted(spent for answer, spent in zip(answers, times, strict=True) if answer.source == source)
    figures = []
    for percent in (50, 99):
        meaning = f"hit from {name}, end to end, p{percent} of {len(own)}"
        figures.append(Figure(f"{name}_p{percent}", meaning, percentile(own, percent / 100), "ms", at_most=bound if percent > 50 else None))
    return figures


def overhead(answers: list[pb.CompleteResponse]) -> list[Figure]:
    """Everything but the engine, by the service's own clock, of all answers."""
    spent = sorted(answer.timings_ms.total - answer.timings_ms.first_token - answer.timings_ms.decode for answer in answers)
    sources = Counter(pb.Source.Name(answer.source).removeprefix("SOURCE_").lower() for answer in answers)
    baseline = ", ".join(f"{count} {source}" for source, count in sources.most_common())
    return [
        Figure("overhead_p50", "service overhead, p50", percentile(spent, 0.5), "ms", baseline, at_most=1.5),
        Figure("overhead_p99", "service overhead, p99", percentile(spent, 0.99), "ms", "", at_most=5.0),
    ]


def measure(stack: Stack, seconds: float) -> list[Figure]:
    """All figures."""
    hits = fill(stack.service)
    random.Random(SEED).shuffle(hits)  # noqa: S311
    empty = uvloop.run(empty_calls(stack.service, seconds))
    answers, times = uvloop.run(ask_all(stack.service, hits, seconds))
    figures = [
        Figure("empty_p50", "an empty call, end to end, p50", percentile(empty, 0.5), "ms"),
        Figure("empty_p99", "the same, p99", percentile(empty, 0.99), "ms"),
    ]
    figures += [*figures_of("memory", pb.SOURCE_MEMORY, answers, times, 2.0), *overhead(answers)]
    share = sum(answer.source == pb.SOURCE_MEMORY for answer in answers) / len(answers)
    with another_service(stack, model_folder(catalogue.get(MODEL))) as second:
        answers, times = uvloop.run(ask_all(second, hits, seconds))
    figures += figures_of("redis", pb.SOURCE_REDIS, answers, times, 5.0)
    cold = sum(answer.source in {pb.SOURCE_MEMORY, pb.SOURCE_REDIS} for answer in answers) / len(answers)
    baseline = f"the first: {share:.2f}"
    return [
        *figures,
        Figure("second_share", "hit share of a second process, from its start", cold / share, "times", baseline, at_least=0.95),
    ]


def main() -> None:
    options = arguments(__doc__, limit=20)
    with running_stack() as stack:
        figures = measure(stack, options.limit)
    report_figures(Path(__file__).stem, figures, as_json=options.json)


if __name__ == "__main__":
    main()
