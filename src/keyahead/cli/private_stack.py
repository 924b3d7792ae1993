"""A stack of one's own for as long as a command runs: `keyahead up` in a process, on free ports."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keyahead.cli.output import CommandError
from keyahead.engine.tether import tethered

_PORTS = ("--grpc-port", "--metrics-port", "--triton-port", "--triton-metrics-port")
_STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a stack is reached."""

    service: str
    engine_metrics: str


@contextmanager
def private_stack(model: str) -> Iterator[Addresses]:
    """A running stack, which is stopped at the end; the set-up's progress goes to standard error. Raises CommandError."""
    command = [sys.executable, "-P", "-c", "from keyahead.cli.main import app; app()", "up", "--json", "--model", model]
    for option, port in zip(_PORTS, _free_ports(len(_PORTS)), strict=True):
        command += [option, str(port)]
    # A session of its own, so that Ctrl-C is for us, who stop it when the run has ended.
    process = subprocess.Popen(tethered(*command), stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield _addresses(process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        finally:
            with process:
                process.kill()


def _addresses(process: subprocess.Popen[str]) -> Addresses:
    assert process.stdout  # noqa: S101  # asked for above
    line = process.stdout.readline()
    started: dict[str, Any] = json.loads(line) if line else {}
    if "addresses" not in started:
        raise CommandError("keyahead could not be started: see above, or name a running service with --address.")
    return Addresses(started["addresses"]["grpc"], started["addresses"]["triton_metrics"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
