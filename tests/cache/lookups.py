"""Small steps that tests of the Redis tier share."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from keyahead.cache import CacheSettings, Entry, Hit, PrefixCache, RedisSettings, Scope, open_cache

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder

SCOPE = Scope("acme", "0123456789ab", "1", "")
BUDGET_S = 0.05


def only_redis(settings: RedisSettings, events: Recorder | None = None) -> PrefixCache:
    """A cache without memory, so that Redis has to answer."""
    return open_cache(CacheSettings(memory_bytes=0, redis=settings), events)


async def fill(settings: RedisSettings, *prefixes: str) -> None:
    """Store for each prefix a completion that names it."""
    cache = only_redis(settings)
    for prefix in prefixes:
        cache.store(SCOPE, prefix, "", Entry(f"answer to {prefix}", "stop", 1, ()))
    await cache.aclose()


async def look_up(cache: PrefixCache, scope: Scope, prefix: str, suffix: str, budget_s: float) -> Hit | None:
    """In memory and, if there is nothing, elsewhere."""
    return cache.at_hand(scope, prefix, suffix) or await cache.fetch(scope, prefix, suffix, budget_s)


async def text_at(cache: PrefixCache, prefix: str, budget_s: float = 2.0) -> str | None:
    """What is found, within a patient budget."""
    hit = await look_up(cache, SCOPE, prefix, "", budget_s)
    return hit.entry.text if hit else None


async def until(cache: PrefixCache, events: Recorder, state: str) -> float:
    """Look up, as a typist would, until the breaker is in this state; how long that took, in seconds."""
    started = time.monotonic()
    while not events.states or events.states[-1] != state:
        assert time.monotonic() - started < 20, f"the breaker does not get {state}: {events.states}"
        await look_up(cache, SCOPE, "a = ", "", BUDGET_S)
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def until_found(cache: PrefixCache, prefix: str) -> str:
    """Look up until something is found."""
    give_up = time.monotonic() + 20
    while (text := await text_at(cache, prefix, BUDGET_S)) is None:
        assert time.monotonic() < give_up, "nothing is found"
        await asyncio.sleep(0.02)
    return text
