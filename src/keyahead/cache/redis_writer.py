"""Writes to Redis, behind the answers: one bounded queue, one pipeline at a time; what does not fit is dropped, never waited for."""

from __future__ import annotations

import asyncio
import random
from collections import deque

from keyahead.cache.anchors import CANDIDATES
from keyahead.cache.breaker import Breakers
from keyahead.cache.interface import CacheEvents
from keyahead.cache.redis_commands import Group, transaction
from keyahead.cache.redis_connect import Link

# At most this many values wait (a few hundred bytes each) while Redis is slow; so many are sent at once, in one pipeline for each server.
QUEUE_LIMIT = 512
BATCH = 32
# Values stored together do not expire together.
TTL_JITTER = 0.1


class RedisWriter:
    """Stores values in the background, each at the head of the list of its name."""

    def __init__(self, link: Link, breakers: Breakers, events: CacheEvents, ttl_s: float, patience_s: float) -> None:
        """Values live for `ttl_s`, give or take a tenth; a batch not written within `patience_s` is lost. Both in seconds."""
        self._link = link
        self._breakers = breakers
        self._events = events
        self._ttl_ms = ttl_s * 1000
        self._patience_s = patience_s
        self._queue: deque[tuple[str, bytes | None]] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, name: str, value: bytes | None) -> None:
        """Queue a value, or with None the deletion of its list; dropped if the queue is full or its server's breaker is not closed."""
        if len(self._queue) >= QUEUE_LIMIT or self._breakers.of(name).state != "closed":
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
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            wanted = [(name, value) for name, value in batch if self._breakers.of(name).state == "closed"]
            if dropped := len(batch) - len(wanted):
                self._events.redis_write("dropped", dropped)
            if wanted:
                await self._write(wanted)

    async def _write(self, batch: list[tuple[str, bytes | None]]) -> None:
        breakers = [self._breakers.of(name) for name, _ in batch]
        try:
            async with asyncio.timeout(self._patience_s):
                results = await self._link.run([self._commands(name, value) for name, value in batch])
        except TimeoutError as error:
            results = [error] * len(batch)
        if failed := [breaker for breaker, result in zip(breakers, results, strict=True) if isinstance(result, Exception)]:
            for breaker in set(failed):
                breaker.failed()
            self._events.redis_write("error", len(failed))
        if stored := len(batch) - len(failed):
            self._events.redis_write("stored", stored)

    def _commands(self, name: str, value: bytes | None) -> Group:
        if value is None:
            return [("DEL", name)]
        jitter = random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)  # noqa: S311  # spreads load, keeps no secret
        # One step, so that no list is ever left without its expiry.
        return transaction(
            [
                ("LREM", name, 0, value),
                ("LPUSH", name, value),
                ("LTRIM", name, 0, CANDIDATES - 1),
                ("PEXPIRE", name, round(self._ttl_ms * jitter)),
            ]
        )
