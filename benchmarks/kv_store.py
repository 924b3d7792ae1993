"""KV blocks in Redis, engine and a real server on this machine.

How soon a prompt whose beginning is found there has its first token, against computing it all; what asking in vain costs; and what keeping
the blocks costs the engine's thread.
"""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from common import NUM_BLOCKS, TIMEOUT_S, Client, Engine, Figure, arguments, bare_step, median_ratio, report_figures, running_engine
from redis import Redis
from redis.exceptions import RedisError

from keyahead.engine.contract import BLOCK_TOKENS, EngineRequest
from keyahead.engine.cpu.kv_seal import block_ids
from keyahead.engine.cpu.kv_store import KvStore, StoreSettings
from keyahead.engine.cpu.loop import EngineLoop
from keyahead.engine.cpu.runner import timed
from keyahead.engine.store import RichProgress
from keyahead.stack import redis

PREFIX_TOKENS = 600
ROUNDS = 5
"""Each with code of its own: computed without a store, computed by an engine that asks in vain, found by another engine."""


@contextmanager
def redis_server() -> Iterator[str]:
    """The address of a server as `keyahead up` starts it."""
    program = redis.install(RichProgress(), offline=False)
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "redis.sock")
        command = redis.command(program, socket, 0)
        with subprocess.Popen(command, env={**os.environ, **program.environment}, stdout=subprocess.DEVNULL) as process:
            try:
                wait_for(partial(answers, Redis(unix_socket_path=str(socket))))
                yield f"unix://{socket}"
            finally:
                process.kill()


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def wait_for(check: partial[bool]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


class ColdEngine:
    """An engine just started, on the compiled model of another that is idle: it knows nothing but what is in Redis."""

    def __init__(self, engine: Engine, settings: StoreSettings | None) -> None:
        self._bytes_per_block = engine.runner.bytes_per_block
        self.store = KvStore(settings) if settings else None
        self.loop = EngineLoop(engine.runner, engine.limits, NUM_BLOCKS, on_crash=lambda: None, store=self.store)

    def first_token_ms(self, ids: list[int]) -> float:
        """Milliseconds from a prompt's arrival to its first token."""
        client = Client()
        self.loop.submit(EngineRequest(input_ids=tuple(ids), return_perf_metrics=True), client)
        perf = client.result()
        return (perf.first_token_ns - perf.arrival_ns) / 1e6

    def has_written(self, num_blocks: int) -> bool:
        """Whether so many blocks are in Redis because of it."""
        assert self.store is not None
        return bool(self.store.written_bytes >= num_blocks * self._bytes_per_block)

    def close(self) -> None:
        """End its threads."""
        self.loop.close()
        if self.store is not None:
            self.store.close()


def first_tokens(engine: Engine, settings: StoreSettings) -> list[Figure]:
    """Computed, asked for in vain, found."""
    samples: dict[str, list[float]] = {"computed": [], "missed": [], "found": []}
    fetched = 0
    for turn in range(ROUNDS):
        ids = engine.code(PREFIX_TOKENS, 3000 * turn)
        for name, milliseconds in samples.items():
            cold = ColdEngine(engine, None if name == "computed" else settings)
            milliseconds.append(cold.first_token_ms(ids))
            if name == "missed":
                wait_for(partial(cold.has_written, PREFIX_TOKENS // BLOCK_TOKENS))
            fetched += cold.loop.store_counters.fetched_tokens
            cold.close()
    per_prompt = fetched / ROUNDS
    computed, missed, found = (statistics.median(each) for each in samples.values())
    baseline = f"computed: {computed:.0f} ms"
    return [
        Figure(
            "found",
            f"first token of {PREFIX_TOKENS} tokens, {per_prompt:.0f} found in Redis ({found:.0f} ms)",
            median_ratio(samples["found"], samples["computed"]),
            "times",
            baseline,
            at_most=0.1,
        ),
        Figure(
            "missed",
            f"the same, asked for in vain and then kept ({missed:.0f} ms)",
            median_ratio(samples["missed"], samples["computed"]),
            "times",
            baseline,
        ),
    ]


def keeping(engine: Engine, settings: StoreSettings) -> list[Figure]:
    """What the engine's thread does to keep the blocks of one step of prefill, against that step."""
    chunk = engine.limits.chunk
    step_ms = statistics.median(timed(engine.runner, bare_step(engine.code(chunk, 0), PREFIX_TOKENS // 2)) for _ in range(5))
    store = KvStore(settings)
    spent = []
    for block in block_ids("keeping", tuple(engine.code(20 * BLOCK_TOKENS, 0))):
        begin = time.perf_counter()
        if store.wants(block.key):
            store.offer(block, engine.runner.read_block(0))
        spent.append((time.perf_counter() - begin) * 1e3)
    store.close()
    per_step = statistics.median(spent) * chunk / BLOCK_TOKENS
    baseline = f"a chunk of {chunk}: {step_ms:.0f} ms"
    meaning = f"keeping the blocks of one step of prefill ({per_step:.2f} ms)"
    return [Figure("keeping", meaning, per_step / step_ms, "times", baseline, at_most=0.02)]


def main() -> None:
    options = arguments(__doc__)
    with running_engine() as engine, redis_server() as url:
        settings = StoreSettings(url, secrets.token_bytes(32), engine.runner.fingerprint, capacity=NUM_BLOCKS)
        figures = [*first_tokens(engine, settings), *keeping(engine, settings)]
    report_figures(Path(__file__).stem, figures, as_json=options.json)


if __name__ == "__main__":
    main()
