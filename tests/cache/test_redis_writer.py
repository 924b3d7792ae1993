"""Writes to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from keyahead.cache.anchors import CANDIDATES
from keyahead.cache.breaker import Breakers
from keyahead.cache.redis_connect import connect
from keyahead.cache.redis_writer import BATCH, QUEUE_LIMIT, RedisWriter

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder
    from tests.cache.servers import RedisServer

TTL_S = 100.0


@pytest_asyncio.fixture
async def writer(redis_server: RedisServer, events: Recorder) -> AsyncIterator[RedisWriter]:
    """A writer with a connection of its own."""
    link = connect(redis_server.url, timeout_s=0.2, max_connections=1)
    yield RedisWriter(link, Breakers(events.breaker, link.server_of), events, TTL_S, patience_s=2.0)
    await link.aclose()


@pytest.mark.asyncio
async def test_a_list_keeps_the_newest_once_each(writer: RedisWriter, redis_server: RedisServer) -> None:
    """The same as in memory: newest first, none twice, not too many."""
    for n in [*range(CANDIDATES + 2), CANDIDATES]:
        writer.put("c:list", b"value %d" % n)
    await writer.flush()
    newest = [CANDIDATES, CANDIDATES + 1, *range(CANDIDATES - 1, 1, -1)]
    assert redis_server.admin.lrange("c:list", 0, -1) == [b"value %d" % n for n in newest]


@pytest.mark.asyncio
async def test_everything_expires_but_not_together(writer: RedisWriter, redis_server: RedisServer) -> None:
    """Every list has a time to live within a tenth of the one asked for, and they differ."""
    for n in range(50):
        writer.put(f"c:{n}", b"value")
    await writer.flush()
    left = [redis_server.admin.pttl(f"c:{n}") for n in range(50)]
    assert all(0.85 * TTL_S * 1000 < ms <= 1.1 * TTL_S * 1000 for ms in left)
    assert max(left) - min(left) > 0.05 * TTL_S * 1000


@pytest.mark.asyncio
async def test_none_deletes(writer: RedisWriter, redis_server: RedisServer) -> None:
    """A deletion comes in its turn among the writes."""
    writer.put("c:list", b"bad")
    writer.put("c:list", None)
    await writer.flush()
    assert redis_server.admin.exists("c:list") == 0


@pytest.mark.asyncio
async def test_a_frozen_redis_costs_bounded_memory(writer: RedisWriter, redis_server: RedisServer, events: Recorder) -> None:
    """The queue takes so many and drops the rest; once the breaker is open all are dropped; every one is accounted for."""
    redis_server.freeze()
    total = QUEUE_LIMIT + 100
    for n in range(total):
        writer.put(f"c:{n}", b"value")
    assert events.counts["write dropped"] == 100
    await asyncio.wait_for(writer.flush(), 10)
    writer.put("c:more", b"value")
    assert events.states == ["open"]
    assert events.counts == {"write error": 3 * BATCH, "write dropped": total + 1 - 3 * BATCH}
