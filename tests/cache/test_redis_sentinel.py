"""A real primary, replica and Sentinel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keyahead.cache import Entry
from tests.cache.lookups import BUDGET_S, SCOPE, fill, only_redis, text_at, until_found
from tests.cache.servers import Watched, eventually, settings

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder


@pytest.mark.asyncio
async def test_a_failover_costs_misses_and_then_hits_again(watched: Watched, events: Recorder) -> None:
    """When the primary dies, look-ups miss; once the replica is the primary, what was stored is found, and stores go there."""
    await fill(settings(watched.url), "a = ")
    eventually(watched.replica.admin.dbsize, "the replica does not follow")
    cache = only_redis(settings(watched.url, BUDGET_S, 0.25), events)
    assert await until_found(cache, "a = ") == "answer to a = "
    watched.primary.kill()
    assert await text_at(cache, "a = ", BUDGET_S) is None
    failover = asyncio.create_task(asyncio.to_thread(watched.wait_for_failover))
    while not failover.done():
        await text_at(cache, "a = ", BUDGET_S)
        await asyncio.sleep(0.02)
    await failover
    assert await until_found(cache, "a = ") == "answer to a = "
    cache.store(SCOPE, "b = ", "", Entry("2", "stop", 1, ()))
    assert await until_found(cache, "b = ") == "2"
    await cache.aclose()
    assert events.counts["read error"] > 0
    assert events.states[-1] == "closed"


@pytest.mark.asyncio
async def test_a_demoted_primary_is_left(watched: Watched, events: Recorder) -> None:
    """After a failover by hand, with everybody alive, what is stored goes to the new primary."""
    cache = only_redis(settings(watched.url), events)
    assert await text_at(cache, "a = ") is None
    # Until it has heard from the replica, the Sentinel refuses.
    await asyncio.to_thread(eventually, lambda: watched.sentinel.admin.execute_command("SENTINEL", "FAILOVER", "main"), "no failover")
    await asyncio.to_thread(watched.wait_for_failover)
    eventually(lambda: watched.primary.admin.role()[0] == b"slave", "the former primary is not demoted")
    for _ in range(500):
        cache.store(SCOPE, "a = ", "", Entry("1", "stop", 1, ()))
        if await text_at(cache, "a = ", BUDGET_S):
            break
        await asyncio.sleep(0.02)
    assert await until_found(cache, "a = ") == "1"
    assert watched.replica.admin.dbsize() == 1
    await cache.aclose()


@pytest.mark.asyncio
async def test_without_sentinel_what_is_connected_goes_on(watched: Watched, events: Recorder) -> None:
    """A dead Sentinel matters only to who has to find the primary."""
    cache = only_redis(settings(watched.url), events)
    assert await text_at(cache, "a = ") is None
    watched.sentinel.kill()
    cache.store(SCOPE, "a = ", "", Entry("1", "stop", 1, ()))
    await cache.aclose()
    assert events.counts["write stored"] + events.counts["write error"] == 1
    late = only_redis(settings(watched.url, BUDGET_S, 0.25), events)
    assert await text_at(late, "a = ", BUDGET_S) is None
    await late.aclose()
