"""What a look-up in the prefix cache costs, in memory and in a real Redis, and what a cached completion takes of either's memory.

Starts a Redis as `keyahead up` does, on a socket; needs no model. Every look-up goes back over nine lines. The baseline is a PING through
the same client library: what asking Redis anything at all costs here.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import statistics
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvloop
from common import SEED, Figure, arguments, report_figures
from redis.asyncio import Redis

from keyahead.cache import CacheSettings, Entry, Hit, PrefixCache, RedisSettings, Scope, open_cache
from keyahead.cache.anchors import CANDIDATES, LOOKUP_PLACES, Candidate, locate
from keyahead.cache.memory import MemoryTier
from keyahead.engine.store import RichProgress
from keyahead.stack import probes, redis

WARM_UP = 200
COMPLETIONS = 2_000
"""For the memory figures, each at a place of its own."""
SERVER_KEY = bytes(32)
SCOPE = Scope("acme", "0123456789ab", "1", "AUTO|python|32|")
# Lines and a completion of usual length; the model's median answer has 11 tokens.
LINES = "".join(f"    value_{number} = compute(source_{number}, weight={number})\n" for number in range(40))
COMPLETION = Entry("collect(values, key=by_weight)", "stop", 11, (7, 8, 14, 15, 16, 19, 20, 22, 23, 29, 30))


@contextmanager
def running_redis() -> Iterator[str]:
    """The address of a server of our own."""
    program = redis.install(RichProgress(), offline=False)
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "redis.sock"
        command, environment = redis.command(program, socket, 0), {**os.environ, **program.environment}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
            try:
                while not probes.redis_ready(f"unix://{socket}"):
                    assert server.poll() is None, "redis-server has ended"
                yield f"unix://{socket}"
            finally:
                server.kill()


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[PrefixCache]:
    """A cache of one tier: memory, or a Redis that may take its time."""
    patient = RedisSettings(url, SERVER_KEY, budget_s=1.0, socket_timeout_s=1.0, quota_burst_bytes=1e9) if url else None
    cache = open_cache(CacheSettings(redis=patient, memory_bytes=0) if url else CacheSettings())
    yield cache
    await cache.aclose()


async def timed(rounds: int, measures: Mapping[str, Callable[[], Awaitable[object]]]) -> dict[str, list[float]]:
    """Milliseconds of each measure, once a round and in a new order each."""
    clock = time.perf_counter  # uvloop's own counts whole milliseconds
    order, shuffler = list(measures), random.Random(SEED)  # noqa: S311 - an order, not a secret
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds + WARM_UP):
        shuffler.shuffle(order)
        for name in order:
            started = clock()
            await measures[name]()
            samples[name].append(1000 * (clock() - started))
    return {name: values[WARM_UP:] for name, values in samples.items()}


async def look_up(cache: PrefixCache, prefix: str, suffix: str) -> Hit | None:
    """As the service does."""
    return cache.at_hand(SCOPE, prefix, suffix) or await cache.fetch(SCOPE, prefix, suffix, 1.0)


async def look_ups(url: str, rounds: int) -> list[Figure]:
    """What they cost, hits and misses."""
    here = LINES + "    total = "
    async with opened(url) as shared, opened(None) as memory, Redis.from_url(url, protocol=3) as client:
        for cache in (shared, memory):
            cache.store(SCOPE, here, "", COMPLETION)
            for lines in range(LOOKUP_PLACES):  # as full as nine places can be, and nothing fits
                at = here.rsplit("\n", lines)[0] + "\n" * (lines > 0)
                for number in range(CANDIDATES):
                    cache.store(SCOPE, at + f"other_{number}", "full", COMPLETION)
        await asyncio.sleep(0.5)  # the writes of a few dozen values
        hit = await shared.fetch(SCOPE, here + "coll", "", 1.0)
        assert hit, "Redis does not have what was stored"
        assert hit.typed == 4
        measures: dict[str, Callable[[], Awaitable[object]]] = {"ping": client.ping}
        for name, cache in (("memory", memory), ("redis", shared)):
            measures[f"{name}_hit"] = lambda cache=cache: look_up(cache, here + "coll", "")  # type: ignore[misc]
            measures[f"{name}_miss"] = lambda cache=cache: look_up(cache, here, "elsewhere")  # type: ignore[misc]
            measures[f"{name}_full"] = lambda cache=cache: look_up(cache, here, "full")  # type: ignore[misc]
        samples = await timed(rounds, measures)
    return [figure for name in samples for figure in cost(name, samples[name], samples["ping"])]


MEANINGS = {
    "ping": "PING",
    "memory_hit": "memory: typed-through hit",
    "memory_miss": "memory: nothing at nine places",
    "memory_full": "memory: 72 completions, none fits",
    "redis_hit": "Redis: typed-through hit",
    "redis_miss": "Redis: nothing at nine places",
    "redis_full": "Redis: 72 sealed completions, none fits",
}


def cost(name: str, values: list[float], ping: list[float]) -> list[Figure]:
    """Median and 99th percentile, and the ratio of the medians to that of a PING."""
    p50, p99, base = statistics.median(values), statistics.quantiles(values, n=100)[98], statistics.median(ping)
    meaning = MEANINGS[name]
    times = [Figure(f"{name}_p50", f"{meaning}, p50", p50, "ms"), Figure(f"{name}_p99", f"{meaning}, p99", p99, "ms")]
    return times if values is ping else [*times, Figure(f"{name}_ratio", f"{meaning}, p50", p50 / base, "x", "PING, p50")]


def in_memory() -> Figure:
    """Bytes a completion takes in the memory tier, places and all."""
    tier = MemoryTier(1 << 30, 600.0)
    gc.collect()
    tracemalloc.start()
    for number in range(COMPLETIONS):
        here = next(locate(SCOPE, f"# {number}\n" + LINES[: 40 * (number % 20)] + "    total = ", f"# below {number}"))
        text = f"{number}: {COMPLETION.text}"
        tier.put(here.anchor, Candidate(here.since, Entry(text, "stop", 11, tuple(300 + end for end in COMPLETION.token_ends))))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = tier.size / COMPLETIONS
    return Figure("memory_bytes", "memory tier, a completion alone at its place", taken / COMPLETIONS, "bytes", f"counted as {counted:.0f}")


async def in_redis(url: str) -> list[Figure]:
    """Bytes a completion takes in Redis: alone at its place, and as one of eight."""
    figures = []
    async with Redis.from_url(url) as client:
        for each in (1, CANDIDATES):
            await client.flushall()
            before = await used(client)
            async with opened(url) as cache:
                for number in range(COMPLETIONS):
                    cache.store(SCOPE, f"# {number // each}\n    total = " + "x" * (number % each), "", COMPLETION)
                    if number % 400 == 399:  # the writer's queue is bounded
                        await asyncio.sleep(0.2)
            assert await client.dbsize() == COMPLETIONS // each, "not everything was stored"
            taken = (await used(client) - before) / COMPLETIONS
            figures.append(Figure(f"redis_bytes_{each}", f"Redis, a completion, {each} at a place", taken, "bytes"))
    return figures


async def used(client: Any) -> int:
    """Bytes of data that Redis holds."""
    stats = await client.memory_stats()
    return int(stats["dataset.bytes"]) + int(stats["overhead.total"])


def main() -> None:
    """Run and print."""
    options = arguments(__doc__, limit=5_000)
    with running_redis() as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(look_ups(url, options.limit))
        figures += [in_memory(), *runner.run(in_redis(url))]
    report_figures("Prefix cache", figures, as_json=options.json)


if __name__ == "__main__":
    main()
