"""No source text leaves the process in clear."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from keyahead.cache import CacheSettings, Entry, Scope, open_cache

if TYPE_CHECKING:
    from tests.cache.servers import RedisServer


@pytest.mark.asyncio
async def test_a_canary_is_nowhere_to_be_seen(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A unique word in the text, the completion and the tenant is in no key or value of Redis, not in its dump, its log or ours."""
    caplog.set_level(logging.DEBUG)
    canary = "kanarienvogel"
    settings = CacheSettings(memory_bytes=0, redis=redis_server.settings())
    cache = open_cache(settings)
    scope = Scope(f"{canary} Ltd", "0123456789ab", "1", f"path={canary}.py")
    prefix, suffix = f"# {canary}\n{canary} = ", f"  # {canary}\n"
    cache.store(scope, prefix, suffix, Entry(f"{canary}()", "stop", 1, ()))
    await cache.aclose()
    cache = open_cache(settings)
    assert await cache.lookup(scope, prefix, suffix, 2.0)
    redis_server.kill()
    assert await cache.lookup(scope, prefix, suffix, 2.0) is None
    await cache.aclose()
    redis_server.start()
    cache = open_cache(settings)
    cache.store(scope, prefix, suffix, Entry(f"{canary}()", "stop", 1, ()))
    await cache.aclose()
    (name,) = redis_server.admin.keys("*")
    seen = [name, *redis_server.admin.lrange(name, 0, -1), redis_server.dump(), redis_server.log()]
    seen += [text.encode() for text in (caplog.text, *capfd.readouterr())]
    assert len(redis_server.dump()) > 100
    assert not [text for text in seen if canary.encode() in text]
