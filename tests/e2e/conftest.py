"""The real thing: `keyahead up` as a user starts it, with real Redis, Triton, model and service."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

SERVICE = "keyahead.v1.Autocomplete"
SOURCE = Path(os.__file__).read_text()
"""Real code to complete."""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def eventually(check: Callable[[], bool], seconds: float) -> bool:
    """Whether something becomes true within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if check():
            return True
        time.sleep(0.05)
    return check()


@dataclass
class Running:
    """A started stack."""

    process: subprocess.Popen[str]
    address: str
    triton_metrics: str
    metrics: str
    started: dict[str, object]

    def __post_init__(self) -> None:
        self.channel = grpc.insecure_channel(self.address)
        self.stub = pb_grpc.AutocompleteStub(self.channel)

    def complete(self, prefix: str, suffix: str = "", timeout: float = 60, **fields: Any) -> pb.CompleteResponse:
        """One completion of Python code, asked by hand unless told otherwise."""
        document = pb.Document(path="a.py", split=pb.SplitText(prefix=prefix, suffix=suffix))
        request = pb.CompleteRequest(document=document, **{"trigger": pb.TRIGGER_MANUAL, **fields})
        return self.stub.Complete(request, timeout=timeout)

    def is_serving(self, service: str = SERVICE) -> bool:
        """What the standard health service says."""
        try:
            answer = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def child(self, name: str) -> psutil.Process:
        """The process of the stack whose command line has a word with this end."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if name in (child.name(), *(word[-len(name) :] for word in child.cmdline())))

    def engine_counter(self, name: str) -> float:
        """A counter of the CPU engine, from Triton's Prometheus page."""
        page = urllib.request.urlopen(self.triton_metrics, timeout=5).read().decode()
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


def start(*options: str) -> Running:
    """`keyahead up` on free ports, ready."""
    grpc_port, metrics, triton, triton_metrics = free_ports(4)
    ports = {"--grpc-port": grpc_port, "--metrics-port": metrics, "--triton-port": triton, "--triton-metrics-port": triton_metrics}
    command = [str(Path(sys.executable).parent / "keyahead"), "up", "--json", *options]
    for option, port in ports.items():
        command += [option, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"keyahead up ended with {process.wait()}"
    metrics_page = f"http://127.0.0.1:{triton_metrics}/metrics"
    return Running(process, f"127.0.0.1:{grpc_port}", metrics_page, f"http://127.0.0.1:{metrics}/metrics", json.loads(line))


def stop(running: Running) -> int:
    """Ctrl-C; the exit code."""
    running.channel.close()
    running.process.send_signal(signal.SIGINT)
    code = running.process.wait(60)
    assert running.process.stdout is not None
    running.process.stdout.close()
    return code


@pytest.fixture(scope="module")
def stack() -> Iterator[Running]:
    """One stack for all tests of a file; whoever harms it waits until it serves again."""
    running = start()
    yield running
    assert stop(running) == 0
