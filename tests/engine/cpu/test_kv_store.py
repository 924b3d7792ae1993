"""The store against a real Redis: found whole or not at all, bounded, and never in anybody's way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from keyahead.engine.contract import BLOCK_TOKENS
from keyahead.engine.cpu.kv_seal import BlockId, block_ids
from keyahead.engine.cpu.kv_store import KvStore, StoreSettings, open_store
from tests.cache.servers import RedisServer

KEY = bytes(range(32))
PATIENT_S = 30.0
"""A budget that a busy machine cannot exceed."""
BLOCKS = block_ids("a", tuple(range(8 * BLOCK_TOKENS)))
PAYLOADS = [bytes([place]) * 1000 for place in range(8)]


@contextmanager
def opened(server: RedisServer, **changes: object) -> Iterator[KvStore]:
    """A store on this server, as one engine has it."""
    fields = {"server_key": KEY, "fingerprint": b"model", "capacity": 100, **changes}
    store = KvStore(StoreSettings(f"redis://127.0.0.1:{server.port}/0", **fields))  # type: ignore[arg-type]
    yield store
    store.close()


def fetch(store: KvStore, blocks: list[BlockId], budget_s: float = PATIENT_S) -> list[bytes] | None:
    """Ask and wait; None if the store refuses to be asked."""
    came = threading.Event()
    found: list[bytes] = []

    def deliver(payloads: list[bytes]) -> None:
        found.extend(payloads)
        came.set()

    if not store.fetch(blocks, budget_s, deliver):
        return None
    assert came.wait(PATIENT_S)
    return found


def eventually(check: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENT_S
    while not check() and time.monotonic() < until:
        time.sleep(0.01)
    return check()


def fill(store: KvStore, blocks: list[BlockId] = BLOCKS) -> None:
    """Offer blocks that are not there, and wait until they are written."""
    target = store.written_bytes
    for block, payload in zip(blocks, PAYLOADS, strict=False):
        assert store.wants(block.key)
        store.offer(block, payload)
        target += len(payload)
    assert eventually(lambda: store.written_bytes == target)


def test_another_engine_finds_a_chain_in_one_round_trip(redis_server: RedisServer) -> None:
    """All blocks come with one command, in order; what was found is not written again."""
    with opened(redis_server) as first, opened(redis_server) as second:
        fill(first)
        before = redis_server.admin.info("commandstats")["cmdstat_set"]["calls"]
        assert fetch(second, BLOCKS) == PAYLOADS
        assert redis_server.admin.info("commandstats")["cmdstat_mget"]["calls"] == 1
        assert not any(second.wants(block.key) for block in BLOCKS)
        assert redis_server.admin.info("commandstats")["cmdstat_set"]["calls"] == before


def test_a_chain_ends_where_a_block_is_missing(redis_server: RedisServer) -> None:
    """What comes behind a gap is of no use, and the gap is written again."""
    with opened(redis_server) as store:
        fill(store)
        redis_server.admin.delete(store._sealer.name(BLOCKS[3]))
        assert fetch(store, BLOCKS) == PAYLOADS[:3]
        assert [store.wants(block.key) for block in BLOCKS[:5]] == [False, False, False, True, False]


def value_of(server: RedisServer, name: str) -> bytes:
    value = server.admin.get(name)
    assert isinstance(value, bytes)
    return value


def swapped(server: RedisServer, names: list[str]) -> None:
    first, second = (value_of(server, name) for name in names[:2])
    server.admin.mset({names[0]: second, names[1]: first})


def shortened(server: RedisServer, names: list[str]) -> None:
    server.admin.set(names[0], value_of(server, names[0])[:-1])


def emptied(server: RedisServer, names: list[str]) -> None:
    server.admin.set(names[0], b"")


def of_another_type(server: RedisServer, names: list[str]) -> None:
    server.admin.delete(names[0])
    server.admin.lpush(names[0], b"x")


@pytest.mark.parametrize("harm", [swapped, shortened, emptied, of_another_type])
def test_a_value_that_is_not_the_blocks_own_is_a_miss(redis_server: RedisServer, harm: Callable[[RedisServer, list[str]], None]) -> None:
    """Moved by hand, cut short or replaced: never anything wrong."""
    with opened(redis_server) as store:
        fill(store)
        harm(redis_server, [store._sealer.name(block) for block in BLOCKS])
        assert fetch(store, BLOCKS) == []
        assert store.wants(BLOCKS[0].key)


@pytest.mark.parametrize("changes", [{"server_key": bytes(32)}, {"fingerprint": b"another model"}])
def test_another_key_or_model_finds_nothing(redis_server: RedisServer, changes: dict[str, bytes]) -> None:
    """Engines that must not share blocks can use one server."""
    with opened(redis_server) as first, opened(redis_server, **changes) as second:
        fill(first)
        assert fetch(second, BLOCKS) == []


def test_tenants_find_only_their_own(redis_server: RedisServer) -> None:
    """A then B misses, A then A hits."""
    with opened(redis_server) as store:
        fill(store)
        assert fetch(store, block_ids("b", BLOCKS[-1].prefix)) == []
        assert fetch(store, BLOCKS) == PAYLOADS


def test_redis_holds_no_more_than_the_capacity(redis_server: RedisServer) -> None:
    """The least recently used blocks make room; every value expires."""
    with opened(redis_server, capacity=3) as store:
        fill(store)
        names = {store._sealer.name(block) for block in BLOCKS[-3:]}
        assert set(redis_server.admin.keys("*")) == {name.encode() for name in names}
        assert all(3200 < redis_server.admin.ttl(name) < 4000 for name in names)


def test_writing_beyond_the_quota_is_dropped(redis_server: RedisServer) -> None:
    """When the queue is full because the quota lets little through, blocks are refused before they are copied."""
    with opened(redis_server, bytes_per_s=1.0, burst_bytes=1500.0) as store:
        many = block_ids("a", tuple(range(100 * BLOCK_TOKENS)))
        wanted = 0
        for block in many:
            if store.wants(block.key):
                store.offer(block, bytes(1000))
                wanted += 1
        assert 60 < wanted < 70
        assert eventually(lambda: store.written_bytes == 1000)
        assert store.dropped_blocks == 100 - wanted


def test_a_frozen_server_is_not_asked_for_long(redis_server: RedisServer) -> None:
    """Three answers that do not come open the breaker: nobody waits then. Thawed, it is used again."""
    with opened(redis_server) as store:
        fill(store)
        redis_server.freeze()
        assert eventually(lambda: fetch(store, BLOCKS) is None)
        redis_server.thaw()
        assert eventually(lambda: fetch(store, BLOCKS) == PAYLOADS)


def test_late_answers_count_as_failures(redis_server: RedisServer) -> None:
    """A server too slow for the budget is left alone, although it answers."""
    with opened(redis_server) as store:
        fill(store)
        answers = [fetch(store, BLOCKS, budget_s=1e-5) for _ in range(20)]
        assert None in answers


def test_a_killed_server_costs_nothing_but_its_blocks(redis_server: RedisServer) -> None:
    """Blocks offered meanwhile are dropped; restarted, empty, it is filled again."""
    with opened(redis_server) as store:
        fill(store)
        redis_server.kill()
        extra = block_ids("c", tuple(range(4 * BLOCK_TOKENS)))
        assert eventually(lambda: fetch(store, BLOCKS) is None)
        assert store.wants(extra[0].key)
        store.offer(extra[0], PAYLOADS[0])
        assert eventually(lambda: store.dropped_blocks == 1)
        redis_server.start()
        assert eventually(lambda: fetch(store, BLOCKS) == [])
        assert eventually(lambda: store.wants(BLOCKS[0].key))
        fill(store, BLOCKS[:1])
        assert eventually(lambda: fetch(store, BLOCKS) == PAYLOADS[:1])


def test_nothing_in_redis_or_the_log_tells_what_was_typed(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither tenant, tokens nor payload are to be found in clear in names, values, the dump, its log, or ours."""
    caplog.set_level(logging.DEBUG)
    canary = b"kanarienvogel"
    tokens = tuple(70000 + place for place in range(4 * BLOCK_TOKENS))
    block = block_ids(canary.decode(), tokens)[-1]
    with opened(redis_server) as store:
        store.offer(block, canary * 100)
        assert eventually(lambda: store.written_bytes > 0)
        (name,) = redis_server.admin.keys("*")
        redis_server.admin.append(name, b"x")
        assert fetch(store, [block]) == []
        seen = [name, redis_server.dump(), redis_server.log(), caplog.text.encode()]
    assert "does not open" in caplog.text
    as_int32, as_int64 = ((70000).to_bytes(size, "little") + (70001).to_bytes(size, "little") for size in (4, 8))
    assert not [text for text in seen for word in (canary, as_int32, as_int64, b"70000") if word in text]


@pytest.mark.parametrize(
    ("environment", "capacity", "reason"),
    [
        ({}, 9, "KEYAHEAD_REDIS_URL is not set"),
        ({"KEYAHEAD_REDIS_URL": "redis://h"}, 9, "KEYAHEAD_CACHE_KEY is not set to at least 64 hexadecimal digits"),
        ({"KEYAHEAD_REDIS_URL": "redis://h", "KEYAHEAD_CACHE_KEY": "geheim" * 20}, 9, "KEYAHEAD_CACHE_KEY is not set to at least 64"),
        ({"KEYAHEAD_REDIS_URL": "redis+cluster://:pw@h", "KEYAHEAD_CACHE_KEY": "ab" * 32}, 9, "begins with redis+cluster"),
        ({"KEYAHEAD_REDIS_URL": "redis://:pw@h:port", "KEYAHEAD_CACHE_KEY": "ab" * 32}, 9, "not an address"),
        ({"KEYAHEAD_REDIS_URL": "redis://h", "KEYAHEAD_CACHE_KEY": "ab" * 32}, 0, "kv_store_mb"),
    ],
)
def test_without_the_settings_there_is_no_store(
    environment: dict[str, str], capacity: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says why, without the address's password or the key; the engine goes on as before."""
    caplog.set_level(logging.INFO)
    assert open_store(environment, b"model", capacity) is None
    assert reason in caplog.text
    assert "pw" not in caplog.text
    assert "geheim" not in caplog.text


def test_the_services_own_variables_open_it(redis_server: RedisServer) -> None:
    """A server that does not answer yet is no obstacle: the store connects when it is first used."""
    redis_server.kill()
    store = open_store({"KEYAHEAD_REDIS_URL": f"redis://127.0.0.1:{redis_server.port}", "KEYAHEAD_CACHE_KEY": "ab" * 32}, b"model", 9)
    redis_server.start()
    assert store is not None
    assert fetch(store, BLOCKS) == []
    store.close()
