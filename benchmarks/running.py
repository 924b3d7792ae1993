"""A stack of its own for the benchmarks that need a running service, and what its pages count."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc
from keyahead.stack.probes import service_ready

KEYAHEAD = str(Path(sys.executable).parent / "keyahead")
START_S = 120.0
STOP_S = 60.0


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def counters(url: str) -> dict[str, float]:
    """All samples of a Prometheus page."""
    page = urllib.request.urlopen(url, timeout=5).read().decode()  # noqa: S310 - our own address
    pairs = (line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


@dataclass(frozen=True, slots=True)
class Service:
    """One that answers."""

    address: str
    metrics: str
    pid: int

    def stub(self) -> pb_grpc.AutocompleteStub:
        """A client on a connection of its own."""
        return pb_grpc.AutocompleteStub(grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]))


@dataclass(frozen=True, slots=True)
class Stack:
    """Redis, Triton with the default model, and a service."""

    service: Service
    triton_metrics: str
    environment: Mapping[str, str]
    """What another service needs to share engine and Redis."""


@contextmanager
def running_stack(*options: str) -> Iterator[Stack]:
    """`keyahead up` on free ports until the end of the block."""
    ports = {name: free_port() for name in ("grpc", "metrics", "triton", "triton-metrics")}
    words = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    key = secrets.token_hex(32)
    process = subprocess.Popen(
        [KEYAHEAD, "up", "--json", *options, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "KEYAHEAD_CACHE_KEY": key},
    )
    try:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline() or "{}")
        if "addresses" not in started:
            raise RuntimeError(f"keyahead up did not start: {started}")
        addresses = started["addresses"]
        shared = {"KEYAHEAD_CACHE_KEY": key, "KEYAHEAD_REDIS_URL": addresses["redis"], "KEYAHEAD_TRITON_ADDRESS": addresses["triton"]}
        yield Stack(Service(addresses["grpc"], addresses["metrics"], process.pid), addresses["triton_metrics"], shared)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_S)


@contextmanager
def another_service(stack: Stack, model_folder: Path, **own: str) -> Iterator[Service]:
    """A second service process, with an empty memory, on the same engine and Redis; `own` are further variables for it."""
    grpc_port, metrics_port = free_port(), free_port()
    settings = {
        **stack.environment,
        "KEYAHEAD_MODEL_FOLDER": str(model_folder),
        "KEYAHEAD_GRPC_PORT": str(grpc_port),
        "KEYAHEAD_METRICS_PORT": str(metrics_port),
        **own,
    }
    process = subprocess.Popen([KEYAHEAD, "serve"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **settings})
    address = f"127.0.0.1:{grpc_port}"
    try:
        _wait_until_ready(process, address)
        yield Service(address, f"http://127.0.0.1:{metrics_port}/metrics", process.pid)
    finally:
        process.terminate()
        process.wait(STOP_S)


def _wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    until = time.monotonic() + START_S
    while not service_ready(address):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the second service is not ready (exit code {process.poll()})")
        time.sleep(0.1)
