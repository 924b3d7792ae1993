"""`keyahead cpu`: what it says when something is missing, and a real Triton that ends with its engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rehearse_image import stages
from typer.testing import CliRunner

from keyahead.cli.cpu import _engines
from keyahead.cli.main import app
from keyahead.engine.store import SilentProgress
from keyahead.stack import libpython, triton
from keyahead.stack.guard import SHARED_MEMORY
from tests.e2e.conftest import eventually

KEYAHEAD = [sys.executable, "-c", "from keyahead.cli.main import app; app()"]
MODEL = "smollm2-135m"
ROOT = Path(__file__).resolve().parents[2]


def free_ports() -> list[str]:
    """Options with ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ["--triton-port", ports[0], "--triton-metrics-port", ports[1]]


def is_serving(port: str) -> bool:
    """Whether Triton answers a probe of Kubernetes, and well."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def serving(folder: Path, temporary: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, once Triton says that it is ready, and Triton's address."""
    triton.install(SilentProgress(), offline=False)
    libpython.install(SilentProgress(), offline=False)
    ports = free_ports()
    command = [*KEYAHEAD, "cpu", "serve", "--model", MODEL, "--folder", str(folder), "--threads", "1", *options, *ports]
    environment = {name: value for name, value in os.environ.items() if name != "KEYAHEAD_REDIS_URL"} | {"TMPDIR": str(temporary)}
    log = temporary / "log"
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True) as process:
        try:
            until = time.monotonic() + 60
            while not is_serving(ports[1]):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield process, f"127.0.0.1:{ports[1]}"
        finally:
            process.kill()


def test_without_a_model_it_says_how_to_get_one(tmp_path: Path) -> None:
    """Before Triton is started, with exit code 2."""
    result = CliRunner().invoke(app, ["cpu", "serve", "--folder", str(tmp_path / "absent")])
    assert result.exit_code == 2
    assert CliRunner().invoke(app, ["cpu", "convert"]).exit_code == 2


def test_a_folder_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    """So the Job in a cluster may run as often as it likes, without weights."""
    (tmp_path / "model").mkdir()
    assert CliRunner().invoke(app, ["cpu", "convert", "--offline", "--folder", str(tmp_path / "model")]).exit_code == 0
    assert not list((tmp_path / "model").iterdir())


def test_the_folder_holds_the_whole_model(tmp_path: Path, smol_folder: Path) -> None:
    """All files of the converted model, and nothing beside them."""
    result = CliRunner().invoke(app, ["cpu", "convert", "--offline", "--model", MODEL, "--folder", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "model").iterdir()} == {path.name for path in smol_folder.iterdir()}


def test_triton_ends_with_its_engine(smol_folder: Path, tmp_path: Path) -> None:
    """A dead engine ends the container, which Triton alone would not, and leaves nothing."""
    with serving(smol_folder, tmp_path) as (process, _):
        stub = next(each for each in psutil.Process(process.pid).children(recursive=True) if each.name().startswith("triton_python"))
        stub.kill()
        assert process.wait(30) == 1
    assert not list(SHARED_MEMORY.glob(f"keyahead-cpu-{process.pid}*"))
    assert "The engine has ended" in (tmp_path / "log").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name != "log"]


def test_triton_passes_the_clusters_contract_tests_and_ends_on_a_signal(smol_folder: Path, tmp_path: Path) -> None:
    """The engine has the limits of the options, keeps its contract in the eyes of the job's own command, and a signal ends it with 0, and
    all that it started, although clients hung up on it.
    """
    with serving(smol_folder, tmp_path, "--kv-store-mb", "7", "--lora-cache-mb", "9") as (process, address):
        (config,) = tmp_path.glob("keyahead-*/repository/*/config.pbtxt")
        assert re.findall(r'key: "(\w+)" value: { string_value: "[79]" }', config.read_text()) == ["kv_store_mb", "lora_cache_mb"]
        report = contract_job(tmp_path / "image", address)
        assert report.returncode == 0, report.stdout
        assert re.search(r"\b\d\d passed", report.stdout)
        shutil.rmtree(tmp_path / "image")
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert eventually(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in started), 10)
    assert not [path for path in tmp_path.iterdir() if path.name != "log"]


def test_a_shell_that_triton_starts_is_not_taken_for_the_engine() -> None:
    """It comes and goes while Triton looks for its stub; its end is not the engine's."""
    with subprocess.Popen(["sh", "-c", "echo started; sleep 60 & wait"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        server.stdout.readline()
        assert eventually(lambda: bool(psutil.Process(server.pid).children()), 10)
        assert _engines(server.pid) == []
        for each in psutil.Process(server.pid).children():
            each.kill()
        server.kill()
    assert _engines(server.pid) == []


def contract_job(folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    """What the container of components/contract does, for this engine: its image's command with its arguments, beside its image's files."""
    instructions = stages("contract")[1]
    folder.mkdir()
    for words in (rest.split() for word, rest in instructions if word == "COPY" and "--from" not in rest):
        for source in words[:-1]:
            subprocess.run(["cp", "--recursive", source, folder], cwd=ROOT, check=True)
    command = json.loads(next(rest for word, rest in instructions if word == "ENTRYPOINT"))
    job = next(yaml.safe_load_all((ROOT / "deploy/kubernetes/components/contract/contract.yaml").read_text()))
    given = {"keyahead-triton:8801": address, "$(KEYAHEAD_MODEL_NAME)": MODEL}
    arguments = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"]
    arguments = [f"{name}={given[value]}" for name, _, value in (each.partition("=") for each in arguments)]
    return subprocess.run([sys.executable, *command[1:], *arguments], cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("action", ["install", "convert", "serve"])
def test_every_action_is_explained(action: str) -> None:
    """In the help of the command."""
    assert action in CliRunner().invoke(app, ["cpu", "--help"]).output
