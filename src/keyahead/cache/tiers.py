"""The cache the service uses: memory first, then Redis."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import chain

from keyahead.cache.anchors import Candidate, Found, Place, locate
from keyahead.cache.interface import CacheEvents, Entry, Hit, Neighbour, PrefixCache, Scope, Tier
from keyahead.cache.memory import MemoryTier
from keyahead.cache.redis_tier import RedisSettings, RedisTier

HANG_AFTER_S = 0.003
"""How long after a look-up what it has found over a line end hangs at the new line."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How much is kept, how long, and where."""

    memory_bytes: int = 64 * 1024 * 1024
    """Limit of the memory tier, in bytes."""
    memory_ttl_s: float = 600.0
    """How long after the last store at a place its completions stay in memory, in seconds."""
    redis: RedisSettings | None = None
    """None: memory only."""


class TieredCache:
    """A PrefixCache of a memory tier and, if there is one, a Redis tier."""

    def __init__(self, memory: MemoryTier, redis: RedisTier | None, events: CacheEvents) -> None:
        self._memory = memory
        self._redis = redis
        self._events = events

    def at_hand(self, scope: Scope, prefix: str, suffix: str) -> Hit | None:
        """See PrefixCache."""
        # The first place is where nearly all that is found in memory hangs; the others are worked out only if it is not there.
        places = locate(scope, prefix, suffix)
        here = next(places)
        found = self._memory.find(chain((here,), places))
        return self._hit(here, found, "memory") if found else None

    async def fetch(self, scope: Scope, prefix: str, suffix: str, budget_s: float) -> Hit | None:
        """See PrefixCache."""
        if self._redis:
            places = list(locate(scope, prefix, suffix))
            if found := await self._redis.find(places, budget_s):
                self._memory.put(found.anchor, found.candidate)
                return self._hit(places[0], found, "redis")
        self._events.miss()
        return None

    def neighbours(self, scope: Scope, prefix: str, suffix: str) -> list[Neighbour]:
        """See PrefixCache."""
        return self._memory.neighbours(locate(scope, prefix, suffix))

    def store(self, scope: Scope, prefix: str, suffix: str, entry: Entry) -> None:
        """See PrefixCache."""
        if not entry.text:
            return
        self._hang(next(locate(scope, prefix, suffix)), entry)

    async def aclose(self) -> None:
        """See PrefixCache."""
        await asyncio.sleep(HANG_AFTER_S)  # What the last look-ups have found hangs by then.
        if self._redis:
            await self._redis.aclose()

    def _hit(self, here: Place, found: Found, tier: Tier) -> Hit:
        remainder = found.remainder()
        if found.anchor != here.anchor:
            # Typed over a line end: hang what is left here, so that a long block can be typed through beyond the lines a look-up goes back.
            # Soon, since that would be the longest part of the look-up, and the next key is not here yet.
            asyncio.get_running_loop().call_later(HANG_AFTER_S, self._hang, here, remainder)
        self._events.hit(tier, found.typed)
        return Hit(remainder, tier, found.typed)

    def _hang(self, here: Place, entry: Entry) -> None:
        candidate = Candidate(here.since, entry)
        self._memory.put(here.anchor, candidate)
        if self._redis:
            self._redis.put(here.anchor, candidate)


def open_cache(settings: CacheSettings, events: CacheEvents | None = None) -> PrefixCache:
    """A cache as the settings say; Redis need not be up. Raises ValueError, naming the setting, if one is wrong."""
    events = events or CacheEvents()
    redis = RedisTier(settings.redis, events) if settings.redis else None
    return TieredCache(MemoryTier(settings.memory_bytes, settings.memory_ttl_s), redis, events)
