"""A real engine in this process, and a client that collects what it sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keyahead.engine.contract import EngineRequest, EngineResponse, Perf
from keyahead.engine.cpu.loop import EngineLoop
from keyahead.engine.cpu.runner import Runner
from keyahead.engine.cpu.scheduler import Limits
from keyahead.engine.cpu.sequence import Sequence
from keyahead.engine.tokenizer import Tokenizer
from tests.cache.servers import RedisServer

NUM_BLOCKS = 160
TEXT = "\n".join(path.read_text() for path in sorted(Path(threading.__file__).parent.glob("[a-d]*.py")))


@dataclass(eq=False)
class Collector:
    """A client of the engine."""

    tokens: list[int] = field(default_factory=list)
    deltas: list[int] = field(default_factory=list)
    error: str = ""
    perf: Perf | None = None
    log_probs: tuple[float, ...] = ()
    gone: bool = False
    first: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def send(self, response: EngineResponse, *, final: bool) -> None:
        self.tokens += response.output_ids
        self.deltas.append(len(response.output_ids))
        self.log_probs += response.log_probs or ()
        self.first.set()
        if final:
            self.perf = response.perf
            self.ended.set()

    def fail(self, message: str) -> None:
        self.error = message
        self.first.set()
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.gone


@dataclass
class Engine:
    """The loop, with the shortest way to ask it something."""

    loop: EngineLoop
    tokenizer: Tokenizer

    def start(self, ids: list[int], **request: object) -> tuple[Collector, Sequence]:
        client = Collector()
        made = EngineRequest(input_ids=tuple(ids), **{"max_new_tokens": 8, "return_perf_metrics": True, **request})  # type: ignore[arg-type]
        return client, self.loop.submit(made, client)

    def ask(self, ids: list[int], **request: object) -> Collector:
        client, _ = self.start(ids, **request)
        assert client.ended.wait(120)
        return client

    def prompt(self, num_tokens: int, offset: int = 0) -> list[int]:
        """So many tokens of real code, different for each offset."""
        return self.tokenizer.encode(TEXT[offset : offset + num_tokens * 6])[:num_tokens]

    def wait_for_steps(self, count: int) -> None:
        """Until so many more steps have been computed."""
        target = self.loop.counters.steps + count
        until = time.monotonic() + 60
        while self.loop.counters.steps < target:
            assert time.monotonic() < until
            time.sleep(0.001)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty server."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.close()


@pytest.fixture(scope="session")
def runner(smol_folder: Path) -> Runner:
    """The small model, compiled once; exact, so that equal outputs can be asserted whatever a step's shape."""
    return Runner(smol_folder, NUM_BLOCKS, exact=True)


@pytest.fixture
def engine(runner: Runner, smol_folder: Path) -> Iterator[Engine]:
    """A fresh engine, with nothing cached."""

    def crash() -> None:
        raise AssertionError("the engine crashed")

    loop = EngineLoop(runner, Limits(runner.vocab_size), NUM_BLOCKS, crash)
    yield Engine(loop, Tokenizer.load(smol_folder))
    loop.close()
    loop._scheduler.pool.check_integrity()
    assert loop._scheduler.pool.num_available == NUM_BLOCKS
