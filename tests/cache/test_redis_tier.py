"""The Redis tier in good times and bad; its content is tested in test_tiers.py."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from keyahead.cache import CacheSettings, Entry, PrefixCache, RedisSettings, Scope, open_cache
from keyahead.cache.redis_tier import MAX_READS

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder
    from tests.cache.servers import RedisServer

SCOPE = Scope("acme", "0123456789ab", "1", "")
ENTRY = Entry("alpha + beta", "stop", 3, (5, 7, 12))
BUDGET_S = 0.05


def only_redis(settings: RedisSettings, events: Recorder | None = None) -> PrefixCache:
    """A cache without memory, so that Redis has to answer."""
    return open_cache(CacheSettings(memory_bytes=0, redis=settings), events)


async def fill(server: RedisServer, *prefixes: str) -> None:
    """Store for each prefix a completion that names it."""
    cache = only_redis(server.settings())
    for prefix in prefixes:
        cache.store(SCOPE, prefix, "", Entry(f"answer to {prefix}", "stop", 1, ()))
    await cache.aclose()


async def text_at(cache: PrefixCache, prefix: str) -> str | None:
    hit = await cache.lookup(SCOPE, prefix, "", 2.0)
    return hit.entry.text if hit else None


async def until(cache: PrefixCache, events: Recorder, state: str) -> None:
    """Look up, as a typist would, until the breaker is in this state."""
    give_up = time.monotonic() + 5
    while not events.states or events.states[-1] != state:
        assert time.monotonic() < give_up, f"the breaker does not get {state}: {events.states}"
        await cache.lookup(SCOPE, "a = ", "", BUDGET_S)
        await asyncio.sleep(0.02)


@pytest.mark.asyncio
async def test_a_look_up_is_one_round_trip(redis_server: RedisServer) -> None:
    """However many lines have been typed since, all is asked in one message and answered by what one message brings."""
    await fill(redis_server, "a = ")
    messages = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_redis = await asyncio.open_connection("127.0.0.1", redis_server.port)
        while message := await reader.read(1 << 20):
            messages.append(message)
            to_redis.write(message)
            writer.write(await upstream.read(1 << 20))
        writer.close()
        to_redis.close()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as proxy:
        url = f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0"
        cache = only_redis(RedisSettings(url, redis_server.settings().server_key, budget_s=2.0, socket_timeout_s=5.0))
        assert await text_at(cache, "a = an")
        del messages[:]
        assert await text_at(cache, "a = answer to") == " a = "
        assert await text_at(cache, "x\n" * 20) is None
        await cache.aclose()
    assert [message.count(b"LRANGE") for message in messages] == [1, 9]


@pytest.mark.asyncio
async def test_a_tampered_value_is_a_miss_and_is_deleted(redis_server: RedisServer, events: Recorder) -> None:
    """Garbage, and a good value moved from another place, are never served."""
    await fill(redis_server, "a = ")
    (name,) = redis_server.admin.keys("*")
    good = redis_server.admin.lindex(name, 0)
    await fill(redis_server, "top\nb = ")
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
    await fill(redis_server, *prefixes)
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
    await fill(redis_server, "a = ")
    cache = only_redis(redis_server.settings(budget_s=BUDGET_S, socket_timeout_s=1.0), events)
    redis_server.freeze()
    started = time.monotonic()
    assert set(await asyncio.gather(*(cache.lookup(SCOPE, "a = ", "", 2.0) for _ in range(100)))) == {None}
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
    await cache.lookup(SCOPE, "a = ", "", BUDGET_S)
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
    assert (hit := await cache.lookup(SCOPE, "a = al", "", BUDGET_S))
    assert hit.tier == "memory"
    assert await cache.lookup(SCOPE, "b = ", "", BUDGET_S) is None
    await cache.aclose()
    assert events.counts["write error"] == 1


@pytest.mark.asyncio
async def test_few_rights_are_enough(redis_server: RedisServer, events: Recorder) -> None:
    """A Redis user that may only use the cache's own commands on the cache's own keys can do all."""
    rights = ["+lrange", "+lrem", "+lpush", "+ltrim", "+pexpire", "+del", "+multi", "+exec"]
    redis_server.admin.execute_command("ACL", "SETUSER", "cache", "on", ">secret", "~c:*", "-@all", *rights)
    url = f"redis://cache:secret@127.0.0.1:{redis_server.port}/0"
    cache = only_redis(RedisSettings(url, redis_server.settings().server_key, budget_s=2.0, socket_timeout_s=5.0), events)
    cache.store(SCOPE, "a = ", "", ENTRY)
    give_up = time.monotonic() + 5
    while await text_at(cache, "a = ") != ENTRY.text:
        assert time.monotonic() < give_up
    await cache.aclose()
    assert not {"read error", "write error"} & set(events.counts)


def test_a_wrong_address_is_refused_without_showing_it() -> None:
    """The error names the setting, and neither it nor the settings' own text shows a password or the key."""
    settings = RedisSettings("http://user:hunter2@localhost", b"k" * 32)
    with pytest.raises(ValueError, match="cache redis url: ") as error:
        only_redis(settings)
    assert "hunter2" not in f"{error.value}{settings!r}"
    assert "kkkk" not in repr(settings)
