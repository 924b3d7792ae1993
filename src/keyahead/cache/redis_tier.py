"""The Redis tier: completions shared by service processes and kept over restarts; never on the critical path for longer than its budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from keyahead.cache.anchors import CANDIDATES, Anchor, Candidate, Found, Place, best
from keyahead.cache.breaker import Breaker, Breakers
from keyahead.cache.codec import BadValue, Codec
from keyahead.cache.interface import CacheEvents
from keyahead.cache.keys import Keyring
from keyahead.cache.quota import Quota
from keyahead.cache.redis_connect import connect
from keyahead.cache.redis_writer import RedisWriter

# Reads under way at once; one more is a miss. Redis serves thousands a second on one connection, so this many means that it is stuck.
MAX_READS = 32
# Besides the reads: the writer and the probe. A cluster may have as many to each node.
_MAX_CONNECTIONS = MAX_READS + 2
# No read, write or probe outlives so many socket timeouts. One is enough for a server that is connected; finding the primary, or the map of
# a cluster, takes some more when the servers asked first are dead.
_LIFETIME = 10


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How Redis is used."""

    url: str = field(repr=False)
    """Address of a server, of Sentinels or of a cluster, see `redis_connect`; may hold a password, so it is never shown."""
    server_key: bytes = field(repr=False)
    """Secret of at least 32 bytes shared by all service processes: whoever has it and the Redis data can read the completions."""
    budget_s: float = 0.010
    """Longest a look-up waits for Redis, in seconds. A later answer counts as a failure of Redis."""
    socket_timeout_s: float = 0.050
    """When a silent connection is given up, in seconds. Longer than the budget: a reply a little late does not cost a reconnection."""
    ttl_s: float = 3600.0
    """How long after the last store at a place its completions are kept, in seconds, give or take a tenth."""
    quota_bytes_per_s: float = 256 * 1024
    """What one tenant may write for long, in bytes of names and sealed values a second. An answer of 11 tokens takes 134, and inside a
    burst a key comes every 232 ms: this is some 450 typists at once, none of whom ever hits."""
    quota_burst_bytes: float = 4 * 1024 * 1024
    """What one tenant may write at once."""


class RedisTier:
    """Candidates in Redis."""

    def __init__(self, settings: RedisSettings, events: CacheEvents) -> None:
        """Raises ValueError if the server key is too short or the address is not one of Redis."""
        self._keyring = Keyring(settings.server_key)
        self._codec = Codec(self._keyring)
        self._budget_s = settings.budget_s
        self._events = events
        self._lifetime_s = _LIFETIME * settings.socket_timeout_s
        self._link = connect(settings.url, settings.socket_timeout_s, _MAX_CONNECTIONS)
        self._breakers = Breakers(events.breaker, self._link.server_of)
        self._quota = Quota(settings.quota_bytes_per_s, settings.quota_burst_bytes)
        self._writer = RedisWriter(self._link, self._breakers, events, settings.ttl_s, self._lifetime_s)
        self._reads: set[asyncio.Task[Found | None]] = set()

    async def find(self, places: list[Place], budget_s: float) -> Found | None:
        """The best candidate of the nearest place that has one, in one round trip; None if there is none or Redis is not in time."""
        budget_s = min(budget_s, self._budget_s)
        if budget_s <= 0:
            return None
        names = self._keyring.names([place.anchor for place in places])
        breaker = self._breakers.of(names[0])  # all names of a look-up are at one server
        if not self._may_read(names[0], breaker):
            return None
        read = self._start(self._read(places, names, breaker))
        # Unlike wait_for, wait leaves the read alone when the time is up or the caller is cancelled; a read broken off costs a connection.
        await asyncio.wait({read}, timeout=budget_s)
        return read.result() if read.done() else None

    def put(self, anchor: Anchor, candidate: Candidate) -> None:
        """Add a candidate, soon; dropped when its tenant writes too much or Redis cannot keep up."""
        name, value = self._keyring.name(anchor), self._codec.seal(anchor, candidate)
        if self._quota.take(anchor.scope.tenant, len(name) + len(value)):
            self._writer.put(name, value)
        else:
            self._events.redis_write("over_quota", 1)

    async def aclose(self) -> None:
        """Let reads and writes end, which their timeouts see to, and close the connections."""
        if self._reads:
            await asyncio.wait(self._reads)
        await self._writer.flush()
        await self._link.aclose()

    def _may_read(self, name: str, breaker: Breaker) -> bool:
        if breaker.take_probe():
            self._start(self._probe(name, breaker))
        if breaker.state != "closed":
            self._events.redis_read("open")
            return False
        if len(self._reads) >= MAX_READS:
            self._events.redis_read("busy")
            return False
        return True

    def _start(self, read: Coroutine[Any, Any, Found | None]) -> asyncio.Task[Found | None]:
        task = asyncio.create_task(read, name="cache-redis-read")
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)
        return task

    async def _read(self, places: list[Place], names: list[str], breaker: Breaker) -> Found | None:
        started = time.monotonic()
        values = await self._fetch(names)
        if values is None:
            breaker.failed()
            self._events.redis_read("error")
            return None
        late = time.monotonic() - started > self._budget_s
        if late:
            breaker.failed()
        found = self._choose(places, names, values)
        self._events.redis_read("late" if late else "hit" if found else "miss")
        return found

    async def _probe(self, name: str, breaker: Breaker) -> None:
        """Ask Redis in nobody's name, so that no request waits for a service that was ill a moment ago."""
        if await self._fetch([name]) is None:
            breaker.failed()
        else:
            breaker.succeeded()

    async def _fetch(self, names: list[str]) -> list[list[bytes]] | None:
        """What the lists hold, or None if any of them cannot be read."""
        try:
            async with asyncio.timeout(self._lifetime_s):
                values = await self._link.run([[("LRANGE", name, 0, CANDIDATES - 1)] for name in names])
        except TimeoutError:
            return None
        return None if any(isinstance(value, Exception) for value in values) else values

    def _choose(self, places: list[Place], names: list[str], values: list[list[bytes]]) -> Found | None:
        for place, name, sealed in zip(places, names, values, strict=True):
            if not sealed:
                continue
            try:
                found = best(place, self._codec.open(place.anchor, sealed))
            except BadValue:
                self._writer.put(name, None)
                continue
            if found:
                return found
        return None
