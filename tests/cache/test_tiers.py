"""The cache as the service uses it: memory, then Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from keyahead.cache import CacheSettings, Entry, Hit, Neighbour, PrefixCache, Scope, open_cache
from keyahead.cache.tiers import HANG_AFTER_S
from tests.cache.lookups import look_up

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder
    from tests.cache.servers import RedisServer

SCOPE = Scope("acme", "0123456789ab", "1", "single_line")
PREFIX, SUFFIX = "def area(r):\n    return ", "\n\nprint(area(2))\nprint(area(3))\nprint(area(4))\n"
ENTRY = Entry("math.pi * r ** 2", "stop", 7, (4, 7, 9, 11, 14, 16, 16))
BUDGET_S = 2.0


@pytest_asyncio.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[PrefixCache]:
    """A cache of one tier only; the Redis one has no memory."""
    if request.param == "memory":
        settings = CacheSettings()
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        settings = CacheSettings(memory_bytes=0, redis=server.settings())
    cache = open_cache(settings)
    yield cache
    await cache.aclose()


async def stored(cache: PrefixCache, scope: Scope, prefix: str = PREFIX, entry: Entry = ENTRY) -> Hit | None:
    """Store and look up until the background write has arrived."""
    cache.store(scope, prefix, SUFFIX, entry)
    for _ in range(1000):
        if hit := await look_up(cache, scope, prefix, SUFFIX, BUDGET_S):
            return hit
    return None


@pytest.mark.asyncio
@pytest.mark.parametrize("field", Scope._fields)
async def test_scopes_are_apart(cache: PrefixCache, field: str) -> None:
    """A then B misses, A then A hits, for every field of the scope, at every tier."""
    assert await stored(cache, SCOPE)
    assert await look_up(cache, SCOPE._replace(**{field: "other"}), PREFIX, SUFFIX, BUDGET_S) is None
    assert await look_up(cache, SCOPE, PREFIX, SUFFIX, BUDGET_S)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("one", "other"), [("acme", "beta"), ("acme/ann", "acme/bob"), ("acme", "acme/ann"), ("org_1/2345", "org_12345/"), ("a/bc", "ab/c")]
)
async def test_tenants_and_users_are_apart(cache: PrefixCache, one: str, other: str) -> None:
    """A then B misses, A then A hits, at every tier; and the neighbours of one are not told to the other."""
    ours, theirs = SCOPE._replace(tenant=one), SCOPE._replace(tenant=other)
    assert await stored(cache, ours)
    assert await look_up(cache, theirs, PREFIX, SUFFIX, BUDGET_S) is None
    assert cache.neighbours(theirs, PREFIX, SUFFIX) == []
    assert await look_up(cache, ours, PREFIX, SUFFIX, BUDGET_S)


@pytest.mark.asyncio
async def test_neighbours_come_from_memory(events: Recorder) -> None:
    """What no longer fits is still told; looking costs no event."""
    cache = open_cache(CacheSettings(), events)
    cache.store(SCOPE, PREFIX, SUFFIX, ENTRY)
    assert cache.neighbours(SCOPE, PREFIX + "3.14", SUFFIX) == [Neighbour("    return ", ENTRY.text, "    return 3.14")]
    assert events.counts == {}
    await cache.aclose()


@pytest.mark.asyncio
async def test_exact_and_typed_through(cache: PrefixCache, request: pytest.FixtureRequest) -> None:
    """The whole completion where it was asked, the rest after some typing, nothing after other typing or at its end."""
    hit = await stored(cache, SCOPE)
    assert hit
    assert (hit.entry, hit.typed) == (ENTRY, 0)
    assert hit.tier == request.node.callspec.params["cache"]
    later = await look_up(cache, SCOPE, PREFIX + "math.", SUFFIX, BUDGET_S)
    assert later
    assert (later.entry, later.typed) == (Entry("pi * r ** 2", "stop", 6, (2, 4, 6, 9, 11, 11)), 5)
    assert await look_up(cache, SCOPE, PREFIX + "math,", SUFFIX, BUDGET_S) is None
    assert await look_up(cache, SCOPE, PREFIX + ENTRY.text, SUFFIX, BUDGET_S) is None


@pytest.mark.asyncio
async def test_several_candidates_at_one_line(cache: PrefixCache) -> None:
    """Completions asked at different points of a line live together, and each continues what it fits."""
    assert await stored(cache, SCOPE, PREFIX, Entry("r", "stop", 1, (1,)))
    assert await stored(cache, SCOPE, PREFIX + "m", Entry("ath.tau", "stop", 2, (7,)))
    cases = {"": "r", "m": "ath.tau", "math": ".tau"}
    for typed, rest in cases.items():
        hit = await look_up(cache, SCOPE, PREFIX + typed, SUFFIX, BUDGET_S)
        assert hit
        assert hit.entry.text == rest


@pytest.mark.asyncio
async def test_edits_below(cache: PrefixCache) -> None:
    """A changed line just below loses the completion, a change further down does not."""
    assert await stored(cache, SCOPE)
    assert await look_up(cache, SCOPE, PREFIX, SUFFIX.replace("4", "5") + "more = 1\n", BUDGET_S)
    assert await look_up(cache, SCOPE, PREFIX, SUFFIX.replace("3", "5"), BUDGET_S) is None


@pytest.mark.asyncio
async def test_a_long_block_is_typed_through_to_its_end(cache: PrefixCache) -> None:
    """Line by line a block goes on fitting, at every tier: what is left hangs at each new line."""
    block = "".join(f"step_{n}()\n    " for n in range(30))
    assert await stored(cache, SCOPE, PREFIX, Entry(block, "stop", 30, ()))
    for n in range(1, 30):
        typed = block.index(f"step_{n}(") + 3
        hit = await look_up(cache, SCOPE, PREFIX + block[:typed], SUFFIX, BUDGET_S)
        assert hit
        assert hit.entry.text == block[typed:]
        await asyncio.sleep(HANG_AFTER_S)


@pytest.mark.asyncio
async def test_an_empty_completion_is_not_stored(cache: PrefixCache) -> None:
    """There would be nothing to show."""
    cache.store(SCOPE, PREFIX, SUFFIX, Entry("", "stop", 0, ()))
    assert await stored(cache, SCOPE, PREFIX + "x", Entry("y", "stop", 1, (1,)))
    assert await look_up(cache, SCOPE, PREFIX, SUFFIX, BUDGET_S) is None


@pytest.mark.asyncio
async def test_a_redis_hit_moves_into_memory(redis_server: RedisServer, events: Recorder) -> None:
    """A second process finds in Redis what the first stored, then has it in memory, typed-through look-ups included."""
    settings = CacheSettings(redis=redis_server.settings())
    first, second = open_cache(settings), open_cache(settings, events)
    first.store(SCOPE, PREFIX, SUFFIX, ENTRY)
    await first.aclose()
    tiers = []
    for typed in ("ma", "", "math.pi"):
        hit = await look_up(second, SCOPE, PREFIX + typed, SUFFIX, BUDGET_S)
        assert hit
        assert hit.entry.text == ENTRY.text.removeprefix(typed)
        tiers.append(hit.tier)
    await second.aclose()
    assert tiers == ["redis", "memory", "memory"]
    assert events.counts == {"hit redis": 1, "hit memory": 2, "read hit": 1}


@pytest.mark.asyncio
async def test_no_budget_asks_memory_only(redis_server: RedisServer, events: Recorder) -> None:
    """A look-up with no time left does not trouble Redis."""
    cache = open_cache(CacheSettings(redis=redis_server.settings()), events)
    assert await look_up(cache, SCOPE, PREFIX, SUFFIX, 0.0) is None
    await cache.aclose()
    assert events.counts == {"miss": 1}
