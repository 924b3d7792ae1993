"""The Redis tier in good times and bad; its content is tested in test_tiers.py."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from keyahead.cache import CacheSettings, Entry, RedisSettings, open_cache
from keyahead.cache.redis_tier import MAX_READS
from tests.cache.lookups import BUDGET_S, SCOPE, fill, look_up, only_redis, text_at, until
from tests.cache.proxy import Proxy
from tests.cache.servers import settings

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder
    from tests.cache.servers import RedisServer

ENTRY = Entry("alpha + beta", "stop", 3, (5, 7, 12))


@pytest.mark.asyncio
async def test_a_look_up_is_one_round_trip(redis_server: RedisServer) -> None:
    """However many lines have been typed since, all is asked in one message and answered by what one message brings."""
    await fill(redis_server.settings(), "a = ")
    async with Proxy(redis_server.port) as proxy:
        cache = only_redis(settings(f"redis://127.0.0.1:{proxy.port}/0"))
        assert await text_at(cache, "a = an")
        del proxy.requests[:]
        assert await text_at(cache, "a = answer to") == " a = "
        assert await text_at(cache, "x\n" * 20) is None
        await cache.aclose()
    assert [message.count(b"LRANGE") for message in proxy.requests] == [1, 9]


@pytest.mark.asyncio
async def test_a_tampered_value_is_a_miss_and_is_deleted(redis_server: RedisServer, events: Recorder) -> None:
    """Garbage, and a good value moved from another place, are never served."""
    await fill(redis_server.settings(), "a = ")
    (name,) = redis_server.admin.keys("*")
    good = redis_server.admin.lindex(name, 0)
    await fill(redis_server.settings(), "top\nb = ")
    (other,) = set(redis_server.admin.keys("*")) - {name}
    redis_server.admin.execute_command("LSET", name, 0, b"garbage")
    redis_server.admin.execute_command("LPUSH", other, good)
    cache = only_redis(redis_server.settings(), events)
    assert await text_at(cache, "a = ") is None
    assert await text_at(cache, "top\nb = ") is None
    await cache.aclose()
    assert redis_server.admin.exists(name, other) == 0
    assert events.counts["read miss"] == 2
    assert events.states == []


@pytest.mark.asyncio
async def test_cancelled_look_ups_break_nothing(redis_server: RedisServer) -> None:
    """Cancelling at any moment costs no connection, and no caller ever gets another one's reply."""
    prefixes = [f"name_{n}\nx = " for n in range(50)]
    await fill(redis_server.settings(), *prefixes)
    cache = only_redis(redis_server.settings())
    await asyncio.gather(*(text_at(cache, prefix) for prefix in prefixes[:MAX_READS]))
    before = redis_server.connections()
    for round_ in range(20):
        tasks = [asyncio.create_task(text_at(cache, prefix)) for prefix in prefixes[:MAX_READS]]
        for _ in range(round_):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        given = zip(prefixes, answers, strict=False)
        assert all(isinstance(answer, asyncio.CancelledError) or answer in (None, f"answer to {prefix}") for prefix, answer in given)
        # The reads of the cancelled go on for a moment; there is no event to wait for, since nobody wants them.
        while await text_at(cache, prefixes[-1]) is None:
            await asyncio.sleep(0)
    assert [await text_at(cache, prefix) for prefix in prefixes] == [f"answer to {prefix}" for prefix in prefixes]
    await cache.aclose()
    assert redis_server.connections() == before


@pytest.mark.asyncio
async def test_a_frozen_redis_is_a_miss_within_the_budget(redis_server: RedisServer, events: Recorder) -> None:
    """Nobody waits for the socket's own timeout, reads under way are limited, and the breaker opens; thawed, it serves again."""
    await fill(redis_server.settings(), "a = ")
    cache = only_redis(redis_server.settings(budget_s=BUDGET_S, socket_timeout_s=1.0), events)
    redis_server.freeze()
    started = time.monotonic()
    assert set(await asyncio.gather(*(look_up(cache, SCOPE, "a = ", "", 2.0) for _ in range(100)))) == {None}
    assert time.monotonic() - started < 0.7
    assert events.counts == {"miss": 100, "read busy": 100 - MAX_READS}
    await until(cache, events, "open")
    skipped = events.counts["read open"]
    assert await text_at(cache, "a = ") is None
    assert events.counts["read open"] == skipped + 1
    redis_server.thaw()
    await until(cache, events, "closed")
    assert await text_at(cache, "a = ") == "answer to a = "
    await cache.aclose()


@pytest.mark.asyncio
async def test_a_killed_redis_is_a_miss_until_it_is_back(redis_server: RedisServer, events: Recorder) -> None:
    """Look-ups and stores go on without it; after a restart it is used again, with no restart of the service."""
    cache = only_redis(redis_server.settings(budget_s=BUDGET_S, socket_timeout_s=0.2), events)
    await look_up(cache, SCOPE, "a = ", "", BUDGET_S)
    redis_server.kill()
    await until(cache, events, "open")
    cache.store(SCOPE, "a = ", "", ENTRY)
    assert events.counts["write dropped"] == 1
    redis_server.start()
    await until(cache, events, "closed")
    cache.store(SCOPE, "a = ", "", ENTRY)
    give_up = time.monotonic() + 5
    while await text_at(cache, "a = ") != ENTRY.text:
        assert time.monotonic() < give_up
    await cache.aclose()


@pytest.mark.asyncio
async def test_redis_may_come_later(redis_server: RedisServer, events: Recorder) -> None:
    """Without Redis the cache opens, works from memory, and closes."""
    redis_server.kill()
    cache = open_cache(CacheSettings(redis=redis_server.settings()), events)
    cache.store(SCOPE, "a = ", "", ENTRY)
    assert (hit := await look_up(cache, SCOPE, "a = al", "", BUDGET_S))
    assert hit.tier == "memory"
    assert await look_up(cache, SCOPE, "b = ", "", BUDGET_S) is None
    await cache.aclose()
    assert events.counts["write error"] == 1


def test_settings_do_not_show_secrets() -> None:
    """Neither a password in the address nor the key is in the settings' own text."""
    shown = repr(RedisSettings("redis://user:hunter2@localhost", b"k" * 32))
    assert "hunter2" not in shown
    assert "kkkk" not in shown
