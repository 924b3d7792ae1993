"""What token healing's first request costs: one token with `embedding_bias` against one without, through real Triton and in this process.

The bias is 152k numbers, 600 kB a request. Prompts are warm, so a request is one decode step and the way there and back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import statistics
import time
from functools import partial

from common import MODEL, SEED, Engine, Figure, arguments, interleaved, median_ratio, report_figures, running_engine

from keyahead.cli.up import set_up
from keyahead.engine.contract import EngineRequest
from keyahead.engine.store import RichProgress
from keyahead.service.engine_client import EngineClient
from keyahead.stack.programs import Ports, compose
from keyahead.stack.runfolder import run_folder
from keyahead.stack.supervisor import Supervisor

ROUNDS = 40
PROMPT_TOKENS = 300
READY_S = 30.0
FREE, HEALED = "without", "with"

Samples = dict[str, list[float]]


def requests(engine: Engine) -> dict[str, EngineRequest]:
    """One token behind a prompt that ends inside a word, without and with the bias that a healed token brings."""
    *ids, last = engine.code(PROMPT_TOKENS, SEED)
    free = EngineRequest(input_ids=tuple(ids), max_new_tokens=1)
    bias = engine.builder.first_token_bias(engine.tokenizer.token_bytes(last))
    return {FREE: free, HEALED: dataclasses.replace(free, embedding_bias=bias)}


def in_process(engine: Engine, made: dict[str, EngineRequest]) -> Samples:
    """Milliseconds at the engine loop's client."""

    def ask(request: EngineRequest) -> float:
        begin = time.perf_counter()
        engine.ask(request.input_ids, embedding_bias=request.embedding_bias)
        return (time.perf_counter() - begin) * 1e3

    ask(made[FREE])  # Makes the prompt warm.
    return interleaved(ROUNDS, {name: partial(ask, request) for name, request in made.items()})


def through_triton(made: dict[str, EngineRequest]) -> Samples:
    """Milliseconds at the service's own client of a Triton that is started for this and stopped."""
    progress = RichProgress()
    parts = set_up(MODEL, None, progress, redis_url=None, with_redis=False, offline=False)
    grpc, metrics, engine, engine_metrics = free_ports(4)
    ports = Ports(grpc, metrics, engine, engine_metrics, redis=0)
    samples: Samples = {}
    with run_folder() as run:
        triton = next(program for program in compose(parts, ports, run).programs if program.name == "Triton")
        supervisor = Supervisor([triton], run.path, run, progress.note)

        def measure() -> None:
            samples.update(at_client(f"127.0.0.1:{ports.triton}", made))
            supervisor.stop()

        supervisor.run(measure)
    return samples


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def at_client(address: str, made: dict[str, EngineRequest]) -> Samples:
    """Milliseconds from sending a request to its last response."""
    with asyncio.Runner() as runner:
        client = runner.run(connected(address))

        def ask(request: EngineRequest) -> float:
            begin = time.perf_counter()
            runner.run(decoded(client, request))
            return (time.perf_counter() - begin) * 1e3

        try:
            ask(made[FREE])
            return interleaved(ROUNDS, {name: partial(ask, request) for name, request in made.items()})
        finally:
            runner.run(client.aclose())


async def connected(address: str) -> EngineClient:
    """A client whose engine answers; TimeoutError if it does not."""
    client = EngineClient(address)
    client.start()
    async with asyncio.timeout(READY_S):
        while not client.ready:  # noqa: ASYNC110 - the client offers no event
            await asyncio.sleep(0.05)
    return client


async def decoded(client: EngineClient, request: EngineRequest) -> list[int]:
    """All tokens of a request."""
    return [token async for response in client.decode(request) for token in response.output_ids]


def figures(way: str, meaning: str, samples: Samples) -> list[Figure]:
    """The bias's cost, as a ratio and in milliseconds."""
    free = statistics.median(samples[FREE])
    extra = statistics.median(healed - base for healed, base in zip(samples[HEALED], samples[FREE], strict=True))
    baseline = f"without: {free:.1f} ms"
    return [
        Figure(
            f"{way}_ratio", f"one-token request with a bias, {meaning}", median_ratio(samples[HEALED], samples[FREE]), "times", baseline
        ),
        Figure(f"{way}_extra", "the same, more", extra, "ms", baseline),
    ]


def main() -> None:
    options = arguments(__doc__)
    with running_engine() as engine:
        made = requests(engine)
        inside = in_process(engine, made)
    outside = through_triton(made)
    rows = [*figures("in_process", "in this process", inside), *figures("triton", "through Triton", outside)]
    report_figures("Token healing's first request", rows, as_json=options.json)


if __name__ == "__main__":
    main()
