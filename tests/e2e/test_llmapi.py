"""Our model over the LLM API in a real Triton, with the stand-in for TensorRT-LLM: it keeps the contract; and what a full queue says."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from keyahead.engine.contract import MODEL_NAME, EngineRequest, encode_request
from keyahead.engine.repository import config
from keyahead.engine.store import SilentProgress
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from keyahead.engine.trtllm.proposal import Runtime
from keyahead.engine.trtllm.repository import write_repository
from keyahead.service.engine_client import EngineClient
from keyahead.service.model import Overloaded
from keyahead.stack import guard, libpython, preflight, probes, triton
from tests.contract.client import Endpoint
from tests.e2e.conftest import Running, eventually, free_ports
from tests.engine.llmapi.conftest import CONTAINER

PLAN = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.BF16, runtime=Runtime.LLM_API)
SLOW_MODEL = """
import time

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.3)
        for request in requests:
            request.get_response_sender().send(flags=1)
"""
"""Keeps Triton's scheduler waiting, and answers with nothing."""


def install(version: Path) -> None:
    """Give a model what its container would have: numpy, and the stand-in for TensorRT-LLM."""
    shutil.copytree(CONTAINER, version, dirs_exist_ok=True)
    model = version / "model.py"
    model.write_text(f"import sys\n\nsys.path.insert(0, {str(Path(np.__file__).parents[1])!r})\n{model.read_text()}")


@contextmanager
def serving(folder: Path, repository: Path) -> Iterator[str]:
    """A Triton with this repository; its address."""
    progress = SilentProgress()
    server, library = triton.install(progress, offline=False), libpython.install(progress, offline=False)
    grpc_port, metrics_port = free_ports(2)
    prefix = f"llmapi-{os.getpid()}-{folder.name}"
    command = triton.command(server, repository, triton.Ports(grpc_port, metrics_port), prefix)
    environment = {**os.environ, **triton.environment(server, library)}
    with (folder / "triton.log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            address = f"127.0.0.1:{grpc_port}"
            assert eventually(lambda: process.poll() is not None or probes.triton_ready(address), 60)
            assert process.poll() is None, (folder / "triton.log").read_text()[-2000:]
            yield address
        finally:
            stubs = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait(30)
            for stub in psutil.wait_procs(stubs, timeout=3)[1]:
                stub.kill()
            guard.remove_shared_memory(prefix)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our model, as `keyahead engine` writes it."""
    folder = tmp_path_factory.mktemp("llmapi")
    repository = write_repository(folder / "repository", PLAN)
    install(repository / MODEL_NAME / "1")
    with serving(folder, repository) as found:
        yield found


def test_the_contract_is_kept(address: str, tmp_path: Path) -> None:
    """By the very command of the preflight: all but drafts of others, none skipped."""
    command = preflight.contract_command(PLAN, address, tmp_path)
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout
    assert "skipped" not in run.stdout
    assert "deselected" in run.stdout


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("draft_input_ids", np.array([[5, 6]], np.int32)),
        ("stop_words_list", np.array([[[5, 6], [2, -1]]], np.int32)),
        ("embedding_bias", np.zeros((1, 151936), np.float32)),
    ],
)
def test_what_it_cannot_honour_is_refused_by_name(address: str, name: str, array: np.ndarray) -> None:  # type: ignore[type-arg]  # of two kinds
    """As the client sees it; nothing is computed."""
    endpoint = Endpoint(address, 151936)
    stream = endpoint.open()
    stream.send(encode_request(EngineRequest((1, 2), 2)) | {name: array})
    answer = stream.finish()
    endpoint.close()
    assert f"INVALID_ARGUMENT: {name}: " in answer.error
    assert not answer.tokens


def test_the_service_runs_on_it(address: str, qwen_folder: Path, tmp_path: Path) -> None:
    """It heals with a bias, streams the rest, drafts nothing, and so asks for nothing that would be refused."""
    port, metrics = free_ports(2)
    settings = {
        "KEYAHEAD_TRITON_ADDRESS": address,
        "KEYAHEAD_MODEL_FOLDER": str(qwen_folder),
        "KEYAHEAD_GRPC_PORT": str(port),
        "KEYAHEAD_METRICS_PORT": str(metrics),
        "KEYAHEAD_MAX_DRAFTS": "0",
    }
    prefixes = ("first = beta + gamma\nsecond = delta +", "one = two + three\nfour = five + six\nseven = eight +")
    command = [str(Path(sys.executable).parent / "keyahead"), "serve"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env={**os.environ, **settings}, stderr=log, text=True) as process:
        try:
            running = Running(process, f"127.0.0.1:{port}", "", f"http://127.0.0.1:{metrics}/metrics", {})
            assert eventually(running.is_serving, 60), (tmp_path / "log").read_text()[-2000:]
            answers = [running.complete(prefix).text for prefix in prefixes]
            page = urllib.request.urlopen(running.metrics, timeout=5).read().decode()
            running.channel.close()
        finally:
            process.terminate()
            process.wait(30)
    assert [answer.partition("\n")[0] for answer in answers] == [" gamma", " six"]
    assert not re.findall(r"^keyahead_draft\w*_total\{.*\} [1-9]", page, re.MULTILINE)


def test_a_lost_executor_ends_triton(tmp_path: Path) -> None:
    """So that whoever runs it starts both anew; Triton alone would go on and call itself ready."""
    repository = write_repository(tmp_path / "repository", PLAN)
    install(repository / MODEL_NAME / "1")
    with serving(tmp_path, repository) as address:
        endpoint = Endpoint(address, 151936)
        assert "UNAVAILABLE" in endpoint.start((13,), max_new_tokens=4).finish().error
        assert eventually(lambda: not probes.triton_ready(address), 20)
        endpoint.close()


def test_a_full_queue_is_overload(tmp_path: Path) -> None:
    """Triton's own words for it become RESOURCE_EXHAUSTED with a hint when to retry, and the engine stays ready."""
    version = tmp_path / "repository" / MODEL_NAME / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SLOW_MODEL)
    install(version)
    batching = "dynamic_batching { default_queue_policy { max_queue_size: 2 } }"
    (version.parent / "config.pbtxt").write_text(config("python", 1, {}, ragged=False, batching=batching))

    async def check(address: str) -> None:
        client = EngineClient(address)
        client.start()
        async with asyncio.timeout(20):
            while not client.ready:
                await asyncio.sleep(0.02)

            async def ask() -> None:
                async for _ in client.decode(EngineRequest((1, 2))):
                    pass

            found = await asyncio.gather(*(ask() for _ in range(12)), return_exceptions=True)
            refused = [each for each in found if each is not None]
            assert refused
            assert all(isinstance(each, Overloaded) and each.retry_after_s > 0 for each in refused), refused
            assert client.ready
        await client.aclose()

    with serving(tmp_path, tmp_path / "repository") as address:
        asyncio.run(check(address))
