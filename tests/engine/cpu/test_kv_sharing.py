"""Real engines, one after the other, on one real Redis: the second finds what the first has computed, and asking never costs an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyahead.engine.contract import BLOCK_TOKENS
from keyahead.engine.cpu import cold_starts
from keyahead.engine.cpu.kv_store import KvStore, StoreSettings
from keyahead.engine.cpu.loop import EngineLoop
from keyahead.engine.cpu.runner import Runner
from keyahead.engine.cpu.scheduler import Limits
from keyahead.engine.cpu.stats import samples
from keyahead.engine.tokenizer import Tokenizer
from tests.cache.servers import RedisServer
from tests.engine.cpu.conftest import NUM_BLOCKS, Engine

KEY = bytes(range(32))
PROMPT_TOKENS = 330
FULL_BLOCKS = (PROMPT_TOKENS - 1) // BLOCK_TOKENS


@pytest.fixture(name="tokenizer", scope="module")
def small_tokenizer(smol_folder: Path) -> Tokenizer:
    """The small model's."""
    return Tokenizer.load(smol_folder)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that a busy machine cannot exceed."""
    monkeypatch.setattr(cold_starts, "BUDGET_S_PER_TOKEN", 1.0)
    monkeypatch.setattr(cold_starts, "MAX_BUDGET_S", 30.0)


@contextmanager
def cold_engine(runner: Runner, tokenizer: Tokenizer, server: RedisServer) -> Iterator[tuple[Engine, KvStore]]:
    """An engine that has just been started: its pool is empty, its KV memory is zero, its store knows nothing."""
    for cache in runner._caches:
        cache[:] = 0
    store = KvStore(StoreSettings(f"redis://127.0.0.1:{server.port}", KEY, runner.fingerprint, capacity=100))
    loop = EngineLoop(runner, Limits(runner.vocab_size), NUM_BLOCKS, lambda: None, store=store)
    yield Engine(loop, tokenizer), store
    loop.close()
    store.close()
    loop._scheduler.pool.check_integrity()
    assert loop._scheduler.pool.num_available == NUM_BLOCKS


def eventually(check: Callable[[], bool]) -> bool:
    until = time.monotonic() + 30
    while not check() and time.monotonic() < until:
        time.sleep(0.01)
    return check()


def prefill(runner: Runner, tokenizer: Tokenizer, server: RedisServer, namespace: str = "") -> tuple[list[int], list[int]]:
    """A prompt and its greedy output from an engine that computes all of it, and whose blocks are in Redis now.

    It computes the full blocks first and then the rest, as an engine that finds them does: steps of other shapes may round otherwise.
    """
    with cold_engine(runner, tokenizer, server) as (engine, store):
        ids = engine.prompt(PROMPT_TOKENS)
        engine.ask(ids[: FULL_BLOCKS * BLOCK_TOKENS], namespace=namespace, max_new_tokens=1)
        output = engine.ask(ids, namespace=namespace).tokens
        assert engine.loop.counters.prefill_tokens >= PROMPT_TOKENS
        assert eventually(lambda: store.written_bytes == FULL_BLOCKS * runner.bytes_per_block)
    return ids, output


@pytest.mark.usefixtures("patient")
def test_a_cold_engine_finds_what_another_has_computed(runner: Runner, tokenizer: Tokenizer, redis_server: RedisServer) -> None:
    """The same greedy output, for the rest of a block and one token's computing."""
    ids, output = prefill(runner, tokenizer, redis_server)
    with cold_engine(runner, tokenizer, redis_server) as (engine, store):
        client = engine.ask(ids)
        assert client.tokens == output
        assert engine.loop.counters.prefill_tokens < 32 + 16
        figures = {(name, *labels.values()): value for name, labels, value in samples(engine.loop, store)}
        assert figures["keyahead_engine_kv_store_fetches_total", "hits"] == 1
        assert figures["keyahead_engine_kv_store_tokens_total",] == FULL_BLOCKS * BLOCK_TOKENS
        assert figures["keyahead_engine_kv_store_written_bytes_total",] == 0
        assert client.perf is not None
        assert client.perf.reused_blocks == FULL_BLOCKS


@pytest.mark.usefixtures("patient")
def test_a_blocks_bytes_survive_the_way_through_redis(runner: Runner, tokenizer: Tokenizer, redis_server: RedisServer) -> None:
    """Every layer's rows are put back where they were: what the second engine holds is what the first one held, bit for bit."""
    prefill(runner, tokenizer, redis_server)
    held = {runner.read_block(index) for index in range(NUM_BLOCKS)}
    with cold_engine(runner, tokenizer, redis_server) as (engine, _):
        engine.ask(engine.prompt(PROMPT_TOKENS), max_new_tokens=1)
        loaded = [runner.read_block(index) for index in range(NUM_BLOCKS)]
        assert sum(payload in held for payload in loaded if any(payload)) >= FULL_BLOCKS


@pytest.mark.usefixtures("patient")
def test_tenants_find_only_their_own(runner: Runner, tokenizer: Tokenizer, redis_server: RedisServer) -> None:
    """A then B computes everything; A then A finds it."""
    ids, _ = prefill(runner, tokenizer, redis_server, namespace="a")
    for namespace, found in (("b", 0), ("a", FULL_BLOCKS * BLOCK_TOKENS)):
        with cold_engine(runner, tokenizer, redis_server) as (engine, _):
            assert len(engine.ask(ids, namespace=namespace).tokens) == 8
            assert engine.loop.store_counters.fetched_tokens == found


def frozen(server: RedisServer) -> None:
    server.freeze()


def slow(server: RedisServer) -> None:
    server.admin.client_pause(150)  # later than the budget of 32 ms, sooner than the connection's time-out


@pytest.mark.parametrize("harm", [frozen, slow])
def test_nobody_waits_for_redis_beyond_the_budget(
    runner: Runner, tokenizer: Tokenizer, redis_server: RedisServer, harm: Callable[[RedisServer], None]
) -> None:
    """The sequence is let go when its budget ends (late), not when the connection gives up (a miss), and is computed."""
    ids, _ = prefill(runner, tokenizer, redis_server)
    with cold_engine(runner, tokenizer, redis_server) as (engine, _):
        harm(redis_server)
        assert len(engine.ask(ids).tokens) == 8
        counters = engine.loop.store_counters
        assert (counters.hits, counters.misses, counters.late) == (0, 0, 1)
        redis_server.thaw()


def test_a_killed_redis_is_no_more_than_a_miss(runner: Runner, tokenizer: Tokenizer, redis_server: RedisServer) -> None:
    """Answers come, and nothing was found."""
    ids, _ = prefill(runner, tokenizer, redis_server)
    redis_server.kill()
    with cold_engine(runner, tokenizer, redis_server) as (engine, _):
        assert len(engine.ask(ids).tokens) == 8
        assert len(engine.ask(ids, namespace="other").tokens) == 8
        assert engine.loop.store_counters.fetched_tokens == 0
        redis_server.start()


def test_a_sequence_cancelled_while_it_waits_is_gone_at_once(runner: Runner, tokenizer: Tokenizer, redis_server: RedisServer) -> None:
    """Nothing is computed for it, and the engine goes on."""
    with cold_engine(runner, tokenizer, redis_server) as (engine, _):
        redis_server.freeze()
        client, sequence = engine.start(engine.prompt(1000))
        engine.loop.cancel(sequence)
        assert client.ended.wait(30)
        assert client.error.startswith("CANCELLED")
        assert engine.loop.counters.steps == 0
        redis_server.thaw()
        assert engine.ask([1, 2, 3]).tokens
