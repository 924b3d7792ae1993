"""`keyahead up` when it cannot start; tests/e2e has it running."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

KEYAHEAD = [sys.executable, "-c", "from keyahead.cli.main import app; app()"]


def up(cache: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it with an empty cache, offline."""
    environment = {**os.environ, "KEYAHEAD_CACHE": str(cache), **variables}
    return subprocess.run(
        [*KEYAHEAD, "up", "--offline", *options], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def free_ports() -> list[str]:
    """Options with ports nobody listens on."""
    options = ("--grpc-port", "--metrics-port", "--triton-port", "--triton-metrics-port")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in options]
    words = [word for option, each in zip(options, sockets, strict=True) for word in (option, str(each.getsockname()[1]))]
    for each in sockets:
        each.close()
    return words


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    """Before anything is set up: exit code 2, the port and the cure, and the same as JSON."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = up(tmp_path, *free_ports(), "--grpc-port", port, "--json")
    assert result.returncode == 2
    assert result.stderr.startswith(f"keyahead: Port {port} is not free (Address already in use): stop what uses it")
    assert len(result.stderr.splitlines()) == 1
    assert json.loads(result.stdout)["error"].startswith(f"Port {port} is not free")
    assert not list(tmp_path.iterdir())


def test_ports_come_from_the_environment_too(tmp_path: Path) -> None:
    """KEYAHEAD_METRICS_PORT is the same as --metrics-port."""
    options = free_ports()
    options = options[:2] + options[4:]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = up(tmp_path, *options, KEYAHEAD_METRICS_PORT=str(taken.getsockname()[1]))
    assert result.returncode == 2
    assert "KEYAHEAD_METRICS_PORT" in result.stderr


@pytest.mark.parametrize(
    ("options", "variables", "said"),
    [
        ([], {}, "Triton is not in the cache"),
        (["--model", "gpt-9"], {}, "There is no model named 'gpt-9'"),
        (["--redis-url", "redis://127.0.0.1:1"], {}, "The Redis server of --redis-url does not answer"),
        ([], {"KEYAHEAD_TLS_CERT": "cert.pem"}, "unset KEYAHEAD_TLS_CERT"),
        ([], {"KEYAHEAD_ADAPTERS_FILE": "adapters"}, "unset KEYAHEAD_ADAPTERS_FILE"),
        (["--adapter", "nowhere"], {}, "nowhere/adapter_config.json cannot be read"),
    ],
)
def test_what_cannot_be_started_is_one_sentence(tmp_path: Path, options: list[str], variables: dict[str, str], said: str) -> None:
    """Exit code 2, a cure, no traceback."""
    result = up(tmp_path, *free_ports(), *options, **variables)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_set_up_ends_it_at_once(tmp_path: Path, number: int) -> None:
    """While pip downloads (here: from a place that never answers) nothing is left running, and the next run goes on."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        environment = {**os.environ, "KEYAHEAD_CACHE": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index}
        with subprocess.Popen([*KEYAHEAD, "up", *free_ports()], env=environment, stderr=subprocess.PIPE, text=True) as process:
            silent.settimeout(60)
            connection, _ = silent.accept()  # pip is asking
            started = time.monotonic()
            process.send_signal(number)
            assert process.wait(30) == 130
            with connection:
                connection.settimeout(30)
                while connection.recv(4096):  # until pip has ended
                    pass
            assert time.monotonic() - started < 30
            assert process.stderr
            assert "the same command goes on from here" in process.stderr.read()
