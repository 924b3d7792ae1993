"""A real cluster of three nodes."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyahead.cache import Entry, PrefixCache
from keyahead.cache.redis_tier import MAX_READS
from tests.cache.lookups import BUDGET_S, SCOPE, fill, look_up, only_redis, text_at, until, until_found
from tests.cache.proxy import proxied_cluster
from tests.cache.servers import Cluster, RedisServer, eventually, settings

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder

# Entries of different lines of one document: their names differ, their slot does not.
PREFIXES = [f"step_{n}()\nx = " for n in range(20)]


@pytest.mark.asyncio
async def test_a_look_up_is_one_round_trip(tmp_path: Path) -> None:
    """All nine lists of a look-up are asked for in one message to one node."""
    async with proxied_cluster(tmp_path) as (_, proxies):
        address = settings(f"redis+cluster://127.0.0.1:{proxies[0].port}")
        await fill(address, "a = ")
        cache = only_redis(address)
        # The first one also asks for the map, the second one connects to the node of its slot if the map came from another.
        for _ in range(2):
            assert await text_at(cache, "a = an") == "swer to a = "
        for proxy in proxies:
            del proxy.requests[:]
        assert await text_at(cache, "a = answer to") == " a = "
        assert await text_at(cache, "x\n" * 20 + "a = ") is None
        await cache.aclose()
    sent = [message.count(b"LRANGE") for proxy in proxies for message in proxy.requests if b"LRANGE" in message]
    assert sorted(sent) == [1, 9]
    assert sum(len(proxy.requests) for proxy in proxies) == 2 + sum(b"HELLO" in message for proxy in proxies for message in proxy.requests)


@pytest.mark.asyncio
async def test_writes_reach_every_node(cluster: Cluster, events: Recorder) -> None:
    """Completions of many documents spread over the nodes, each with an expiry, and are found again."""
    cache = only_redis(settings(cluster.url), events)
    documents = [f"# document {n}\nx = " for n in range(30)]
    suffixes = [f"# below {n}" for n in range(30)]
    for document, suffix in zip(documents, suffixes, strict=True):
        cache.store(SCOPE, document, suffix, Entry(document, "stop", 1, ()))
    give_up = time.monotonic() + 20
    while events.counts["write stored"] < 30:
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)
    for document, suffix in zip(documents, suffixes, strict=True):
        hit = await look_up(cache, SCOPE, document, suffix, 2.0)
        assert hit
        assert hit.entry.text == document
    await cache.aclose()
    names = {node: node.admin.keys("*") for node in cluster.nodes}
    assert all(names.values())
    assert all(node.admin.pttl(name) > 0 for node, held in names.items() for name in held)


@pytest.mark.asyncio
async def test_a_slot_moves_under_load(cluster: Cluster, events: Recorder) -> None:
    """While a slot moves key by key, every look-up finds its entry; stores go on; afterwards the new owner is asked straight away."""
    await fill(settings(cluster.url), *PREFIXES)
    cache = only_redis(settings(cluster.url), events)
    source = next(node for node in cluster.nodes if node.admin.dbsize())
    target = next(node for node in cluster.nodes if node is not source)
    assert source.admin.dbsize() == len(PREFIXES)
    done = asyncio.Event()

    async def typist(first: int) -> int:
        asked = 0
        while not done.is_set():
            prefix = PREFIXES[(first + asked) % len(PREFIXES)]
            assert await text_at(cache, prefix) == f"answer to {prefix}"
            asked += 1
        return asked

    typists = [asyncio.create_task(typist(first)) for first in range(8)]
    slot = await asyncio.to_thread(begin_to_move, cluster, source, target)
    for number, name in enumerate(sorted(source.admin.keys("*"))):
        await asyncio.to_thread(source.admin.execute_command, "MIGRATE", "127.0.0.1", target.port, name, 0, 5000)
        prefix = f"new {number}\nx = "
        cache.store(SCOPE, prefix, "", Entry("stored meanwhile", "stop", 1, ()))
        assert await until_found(cache, prefix) == "stored meanwhile"
        await asyncio.sleep(0.01)
    await asyncio.to_thread(end_to_move, cluster, slot, target)
    for _ in range(20):
        assert await until_found(cache, PREFIXES[0])
    done.set()
    assert min(await asyncio.gather(*typists)) > 10
    await cache.aclose()
    assert source.admin.dbsize() == 0
    assert events.states == []
    assert not {"read error", "write error", "read late", "read busy"} & set(events.counts)


def begin_to_move(cluster: Cluster, source: RedisServer, target: RedisServer) -> int:
    """Open the slot of what the source holds at both ends."""
    slot = int(source.admin.execute_command("CLUSTER", "KEYSLOT", source.admin.keys("*")[0]))
    target.admin.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identity(source))
    source.admin.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identity(target))
    return slot


def end_to_move(cluster: Cluster, slot: int, target: RedisServer) -> None:
    """Tell all nodes who has the slot now, the new owner first."""
    for node in sorted(cluster.nodes, key=lambda node: node is not target):
        node.admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", cluster.identity(target))


async def frozen_look_ups(cache: PrefixCache) -> float:
    """Many look-ups at once, none of which finds anything; how long they took together."""
    started = time.monotonic()
    assert set(await asyncio.gather(*(text_at(cache, "a = ") for _ in range(3 * MAX_READS)))) == {None}
    return time.monotonic() - started


@pytest.mark.asyncio
async def test_a_frozen_node_is_a_miss_within_the_budget(cluster: Cluster, events: Recorder) -> None:
    """Nobody waits for it longer than the budget, the breaker opens, and when the node runs again, it serves again."""
    await fill(settings(cluster.url), "a = ")
    cache = only_redis(settings(cluster.url, BUDGET_S, 0.25), events)
    assert await until_found(cache, "a = ")
    holder = next(node for node in cluster.nodes if node.admin.dbsize())
    holder.freeze()
    assert await frozen_look_ups(cache) < 1.0
    await until(cache, events, "open")
    holder.thaw()
    assert await until_found(cache, "a = ") == "answer to a = "
    await cache.aclose()


@pytest.fixture
def lossy(tmp_path: Path, coverage: str) -> Iterator[Cluster]:
    """A cluster that goes on with what it has when a node is lost, or does not (Redis' default)."""
    cluster = Cluster(tmp_path, [{"cluster_require_full_coverage": coverage}] * 3)
    yield cluster
    cluster.close()


DOCUMENTS = [(f"# document {n}\nx = ", f"# below {n}") for n in range(30)]
"""Their slots are spread over the nodes."""


async def all_found(cache: PrefixCache) -> set[int]:
    """Which of the documents' completions are found, none later than its budget and a busy machine's slack."""
    found = set()
    for number, (prefix, suffix) in enumerate(DOCUMENTS):
        started = time.monotonic()
        if await look_up(cache, SCOPE, prefix, suffix, BUDGET_S):
            found.add(number)
        assert time.monotonic() - started < BUDGET_S + 0.5
    return found


async def until_these(cache: PrefixCache, wanted: set[int]) -> float:
    """Store all completions and look them up until just these are found; how long that took, in seconds."""
    started = time.monotonic()
    while True:
        for prefix, suffix in DOCUMENTS:
            cache.store(SCOPE, prefix, suffix, Entry(prefix, "stop", 1, ()))
        await asyncio.sleep(0.05)
        if (found := await all_found(cache)) == wanted:
            return time.monotonic() - started
        assert time.monotonic() - started < 20, f"found are {sorted(found)}"


def is_given_up(victim: RedisServer, other: RedisServer) -> bool:
    """Whether the other node knows that the victim is gone."""
    lines = other.admin.execute_command("CLUSTER", "NODES").decode().splitlines()
    return any(f":{victim.port}@" in line and "fail" in line.split()[2].split(",") for line in lines)


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["kill", "freeze"])
@pytest.mark.parametrize("coverage", ["no", "yes"])
async def test_a_node_without_a_replica_is_lost(coverage: str, end: str, lossy: Cluster, events: Recorder) -> None:
    """With cluster-require-full-coverage no, what the others hold is found as if nothing were, and with yes nothing is; no look-up is late.
    Back, the node serves within 5 s.
    """
    everything = set(range(len(DOCUMENTS)))
    cache = only_redis(settings(lossy.url, BUDGET_S, 0.1), events)
    await until_these(cache, everything)
    victim, *others = lossy.nodes
    its = {number for number in everything if await is_at(victim, cache, number)}
    assert 0 < len(its) < len(everything)
    getattr(victim, end)()
    for other in others:
        await asyncio.to_thread(eventually, functools.partial(is_given_up, victim, other), "the loss is not noticed")
    left = everything - its if coverage == "no" else set()
    await until_these(cache, left)
    for _ in range(10):  # while the breaker of the lost node opens and probes
        assert await all_found(cache) == left
        await asyncio.sleep(0.1)
    await asyncio.to_thread(victim.start if end == "kill" else victim.thaw)
    await asyncio.to_thread(lossy.wait)
    assert await until_these(cache, everything) < 5.0
    await cache.aclose()


async def is_at(node: RedisServer, cache: PrefixCache, number: int) -> bool:
    """Whether a document's look-up asks this node."""
    prefix, suffix = DOCUMENTS[number]
    before = node.admin.info("commandstats").get("cmdstat_lrange", {"calls": 0})["calls"]
    assert await look_up(cache, SCOPE, prefix, suffix, 2.0)
    return bool(node.admin.info("commandstats").get("cmdstat_lrange", {"calls": 0})["calls"] > before)


@pytest.mark.asyncio
async def test_a_cluster_may_come_later(cluster: Cluster, events: Recorder) -> None:
    """Nothing is found while it is gone, and nothing fails; when it is back, what is stored is found."""
    for node in cluster.nodes:
        node.kill()
    cache = only_redis(settings(cluster.url, BUDGET_S, 0.25), events)
    await until(cache, events, "open")
    for node in cluster.nodes:
        node.start()
    await asyncio.to_thread(cluster.wait)
    await until(cache, events, "closed")
    cache.store(SCOPE, "a = ", "", Entry("1", "stop", 1, ()))
    assert await until_found(cache, "a = ") == "1"
    await cache.aclose()
