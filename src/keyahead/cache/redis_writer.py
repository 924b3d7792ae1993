"""Writes to Redis, behind the answers: one bounded queue, one pipeline at a time; what does not fit is dropped, never waited for."""

from __future__ import annotations

import asyncio
import random
from collections import deque

from redis.asyncio import Redis
from redis.exceptions import RedisError

from keyahead.cache.anchors import CANDIDATES
from keyahead.cache.breaker import Breaker
from keyahead.cache.interface import CacheEvents

# At most this many values wait (a few hundred bytes each) while Redis is slow; one pipeline carries this many.
QUEUE_LIMIT = 512
BATCH = 32
# Values stored together do not expire together.
TTL_JITTER = 0.1


class RedisWriter:
    """Stores values in the background, each at the head of the list of its name."""

    def __init__(self, client: Redis, breaker: Breaker, events: CacheEvents, ttl_s: float) -> None:
        self._client = client
        self._breaker = breaker
        self._events = events
        self._ttl_ms = ttl_s * 1000
        self._queue: deque[tuple[str, bytes | None]] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, name: str, value: bytes | None) -> None:
        """Queue a value, or with None the deletion of its list; dropped if the queue is full or the breaker is not closed."""
        if len(self._queue) >= QUEUE_LIMIT or self._breaker.state != "closed":
            self._events.redis_write("dropped", 1)
            return
        self._queue.append((name, value))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name="cache-redis-writer")

    async def flush(self) -> None:
        """Return when everything queued so far has been stored, dropped or lost."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _drain(self) -> None:
        while self._queue and self._breaker.state == "closed":
            await self._write([self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])
        if self._queue:
            self._events.redis_write("dropped", len(self._queue))
            self._queue.clear()

    async def _write(self, batch: list[tuple[str, bytes | None]]) -> None:
        # A transaction, so that no list is ever left without its expiry.
        pipeline = self._client.pipeline(transaction=True)
        for name, value in batch:
            if value is None:
                pipeline.delete(name)
                continue
            pipeline.execute_command("LREM", name, 0, value)
            pipeline.lpush(name, value)
            pipeline.ltrim(name, 0, CANDIDATES - 1)
            jitter = random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)  # noqa: S311  # spreads load, keeps no secret
            pipeline.pexpire(name, round(self._ttl_ms * jitter))
        try:
            await pipeline.execute()
        except (RedisError, OSError):
            self._breaker.failed()
            self._events.redis_write("error", len(batch))
        else:
            self._events.redis_write("stored", len(batch))
