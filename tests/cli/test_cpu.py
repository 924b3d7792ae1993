"""`keyahead cpu`: what it says when something is missing, and a real Triton that ends with its engine."""

from __future__ import annotations

import os
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
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from keyahead.cli.main import app
from keyahead.engine.store import SilentProgress
from keyahead.stack import libpython, triton
from keyahead.stack.guard import SHARED_MEMORY

KEYAHEAD = [sys.executable, "-c", "from keyahead.cli.main import app; app()"]
MODEL = "smollm2-135m"


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
def serving(folder: Path, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, once Triton says that it is ready."""
    triton.install(SilentProgress(), offline=False)
    libpython.install(SilentProgress(), offline=False)
    ports = free_ports()
    command = [*KEYAHEAD, "cpu", "serve", "--model", MODEL, "--folder", str(folder), "--threads", "1", *ports]
    environment = {name: value for name, value in os.environ.items() if name != "KEYAHEAD_REDIS_URL"} | {"TMPDIR": str(temporary)}
    log = temporary / "log"
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True) as process:
        try:
            until = time.monotonic() + 60
            while not is_serving(ports[1]):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield process
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


def test_triton_ends_with_its_engine_and_on_a_signal(smol_folder: Path, tmp_path: Path) -> None:
    """A dead engine ends the container, which Triton alone would not; a signal ends it with 0. Nothing is left either time."""
    with serving(smol_folder, tmp_path) as process:
        stub = next(each for each in psutil.Process(process.pid).children(recursive=True) if each.name().startswith("triton_python"))
        stub.kill()
        assert process.wait(30) == 1
    assert not list(SHARED_MEMORY.glob(f"keyahead-cpu-{process.pid}*"))
    assert "The engine has ended" in (tmp_path / "log").read_text()
    with serving(smol_folder, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not [path for path in tmp_path.iterdir() if path.name != "log"]


@pytest.mark.parametrize("action", ["install", "convert", "serve"])
def test_every_action_is_explained(action: str) -> None:
    """In the help of the command."""
    assert action in CliRunner().invoke(app, ["cpu", "--help"]).output
