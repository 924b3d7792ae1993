"""The endpoint under test: that of --endpoint, or else the CPU engine with a small model in a real Triton."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from keyahead.engine import catalogue, repository
from keyahead.engine.store import SilentProgress
from keyahead.stack import guard, libpython, probes, triton
from tests.contract.client import Endpoint
from tests.e2e.conftest import eventually, free_ports

SMALL = "smollm2-135m"
START_S = 120


@pytest.fixture(scope="session")
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """The engine under test."""
    if address := request.config.getoption("--endpoint"):
        yield from _connected(address, request.config.getoption("--endpoint-model"))
        return
    folder = request.getfixturevalue("tmp_path_factory").mktemp("contract")
    yield from _cpu_engine(folder, request.getfixturevalue("smol_folder"))


def _connected(address: str, model: str) -> Iterator[Endpoint]:
    found = Endpoint(address, catalogue.get(model).vocab)
    yield found
    found.close()


def _cpu_engine(folder: Path, model_folder: Path, **limits: int) -> Iterator[Endpoint]:
    progress = SilentProgress()
    server, library = triton.install(progress, offline=False), libpython.install(progress, offline=False)
    models = repository.write_cpu(folder / "repository", model_folder, **limits)
    grpc_port, metrics_port = free_ports(2)
    prefix = f"contract-{os.getpid()}"
    command = triton.command(server, models, triton.Ports(grpc_port, metrics_port), prefix)
    environment = {**os.environ, **triton.environment(server, library)}
    with (folder / "triton.log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            address = f"127.0.0.1:{grpc_port}"
            assert eventually(lambda: process.poll() is not None or probes.triton_ready(address), START_S)
            assert process.poll() is None, (folder / "triton.log").read_text()[-2000:]
            yield from _connected(address, SMALL)
        finally:
            stubs = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait(30)
            for stub in psutil.wait_procs(stubs, timeout=3)[1]:  # Triton leaves one behind that still computes for a client that hung up
                stub.kill()
            guard.remove_shared_memory(prefix)


@pytest.fixture(scope="session")
def prompt(endpoint: Endpoint) -> tuple[int, ...]:
    """A prompt that this engine continues without doubt: a sequence of ids again and again.

    Whatever the model, what comes next is the sequence once more, with logits far apart; so no rounding, which differs with the shape of
    a batch, decides a token.
    """
    for seed in range(8):
        pattern = tuple(random.Random(seed).sample(range(300, 3000), 12))
        if endpoint.ask(pattern * 6, max_new_tokens=12).tokens == pattern:
            return pattern * 6
    pytest.fail("the engine continues none of the patterns: it decodes wrongly")


@pytest.fixture(scope="session")
def expected(endpoint: Endpoint, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """The engine's own greedy continuation, nine tokens."""
    return endpoint.ask(prompt, max_new_tokens=9).tokens
