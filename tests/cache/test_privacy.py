"""No source text leaves the process in clear."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import generate_latest

from keyahead.cache import CacheSettings, Entry, Scope, open_cache
from keyahead.service.cache_metrics import CacheMetrics
from keyahead.service.metrics import Metrics
from tests.cache.lookups import look_up

if TYPE_CHECKING:
    from tests.cache.servers import RedisServer

CANARY = "kanarienvogel"
SCOPE = Scope(f"{CANARY} Ltd", "0123456789ab", "1", f"path={CANARY}.py")
PREFIX, SUFFIX = f"# {CANARY}\n{CANARY} = ", f"  # {CANARY}\n"


class Monitor:
    """All that clients send to a server, as the server shows it."""

    def __init__(self, server: RedisServer) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(5) == b"+OK\r\n"

    def seen(self) -> bytes:
        """Everything until now."""
        self._socket.setblocking(False)
        seen = b""
        with self._socket, suppress(BlockingIOError):
            while more := self._socket.recv(1 << 16):
                seen += more
        return seen


@pytest.mark.asyncio
async def test_a_canary_is_nowhere_to_be_seen(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A unique word in text, completion and tenant is not in what Redis is sent, holds, dumps or logs, nor in our log or metrics.

    That includes what is said and counted when Redis is lost in between.
    """
    caplog.set_level(logging.DEBUG)
    metrics = Metrics("model", "")
    monitor = Monitor(redis_server)
    settings = CacheSettings(memory_bytes=0, redis=redis_server.settings())
    cache = open_cache(settings, CacheMetrics(metrics))
    cache.store(SCOPE, PREFIX, SUFFIX, Entry(f"{CANARY}()", "stop", 1, ()))
    await cache.aclose()
    cache = open_cache(settings, CacheMetrics(metrics))
    assert await look_up(cache, SCOPE, PREFIX, SUFFIX, 2.0)
    sent, kept = monitor.seen(), redis_server.dump()
    (name,) = redis_server.admin.keys("*")
    assert isinstance(name, bytes)
    values: Any = redis_server.admin.lrange(name, 0, -1)
    redis_server.kill()
    assert await look_up(cache, SCOPE, PREFIX, SUFFIX, 2.0) is None
    cache.store(SCOPE, PREFIX, SUFFIX, Entry(f"{CANARY}()", "stop", 1, ()))
    await cache.aclose()
    seen = [sent, kept, name, *values, redis_server.log(), generate_latest(metrics.registry)]
    seen += [text.encode() for text in (caplog.text, *capfd.readouterr())]
    assert b"lrange" in sent.lower()
    assert b"lpush" in sent.lower()
    assert name in kept
    assert b"read_error" in generate_latest(metrics.registry)
    assert not [text for text in seen if CANARY.encode() in text]
