"""Containers on this host: a command run to its end, and a Triton that serves a plan's engine for a while."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from keyahead.engine.store import SetupError
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.repository import SERVED_ENGINE_DIR, write_repository
from keyahead.stack import probes

READY_TIMEOUT_S = 600.0
"""Loading an engine of 15 GB takes half a minute from a warm disk, and several from a cold one."""
CONTAINER = "keyahead-engine"
_POLL_S = 0.5
_STOP_S = 30
_REPOSITORY_DIR = "/repository"
_CURE = "install Docker and the NVIDIA Container Toolkit, and let your user run docker"


def run(command: Sequence[str], log: Path) -> None:
    """Run a docker command to its end, its output in `log`. Raises SetupError."""
    with log.open("wb") as output:
        try:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        except FileNotFoundError as error:
            raise SetupError(f"There is no {command[0]} on this host: {_CURE}.") from error
    if code:
        raise SetupError(f"{command[0]} ended with {code}: {log} says why; mend that and run the same command again to go on from here.")


@dataclass(frozen=True, slots=True)
class Serving:
    """A Triton that is ready."""

    address: str
    process: subprocess.Popen[bytes]
    """The docker command; it ends with the container."""


def serving_command(plan: Plan, folder: Path, port: int, name: str) -> list[str]:
    """How Triton is started with the engine in `folder`; `port` and, for metrics, the next are the host's, on the loopback interface."""
    options = ("--rm", "--name", name, "--publish", f"127.0.0.1:{port}:8001", "--publish", f"127.0.0.1:{port + 1}:8002")
    mounts = {folder / plan.served: f"{SERVED_ENGINE_DIR}:ro", folder / "repository": f"{_REPOSITORY_DIR}:ro"}
    server = ("tritonserver", f"--model-repository={_REPOSITORY_DIR}", "--disable-auto-complete-config", "--exit-timeout-secs=3")
    return plan.image.run(server, mounts, options=options)


@contextmanager
def serving(plan: Plan, folder: Path, port: int) -> Iterator[Serving]:
    """Triton with the engine while the body runs. Raises SetupError if it does not get ready."""
    write_repository(folder / "repository", plan)
    name, log = f"{CONTAINER}-{os.getpid()}", folder / "triton.log"
    with log.open("wb") as output:
        server = subprocess.Popen(serving_command(plan, folder, port, name), stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(server, f"127.0.0.1:{port}", log)
            yield Serving(f"127.0.0.1:{port}", server)
        finally:
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(["docker", "stop", name], capture_output=True, timeout=_STOP_S, check=False)
            with suppress(subprocess.TimeoutExpired):
                server.wait(_STOP_S)
            server.kill()
            server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while not probes.triton_ready(address):
        if server.poll() is not None:
            raise SetupError(f"Triton ended with {server.returncode} before it was ready: {log} says why.")
        if time.monotonic() > until:
            raise SetupError(f"Triton was not ready within {READY_TIMEOUT_S:.0f} s: {log} says why.")
        time.sleep(_POLL_S)
