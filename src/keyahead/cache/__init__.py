"""The prefix cache: completions by the text around the cursor, in memory and in Redis. It knows nothing of the rest of keyahead."""

from keyahead.cache.interface import CacheEvents, Entry, Hit, Neighbour, PrefixCache, Scope
from keyahead.cache.redis_tier import RedisSettings
from keyahead.cache.tiers import CacheSettings, open_cache

__all__ = ["CacheEvents", "CacheSettings", "Entry", "Hit", "Neighbour", "PrefixCache", "RedisSettings", "Scope", "open_cache"]
