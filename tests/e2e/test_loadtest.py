"""The load test against the real stack, undisturbed and disturbed on purpose."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.conftest import Running, eventually
from tests.loadtest.results import PATIENT

KEYAHEAD = str(Path(sys.executable).parent / "keyahead")
DELAY_S = 0.3


@contextmanager
def slowed(address: str) -> Iterator[str]:
    """A proxy that hands on each piece of the service's answers 300 ms later."""
    host, port = address.split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
        while data := source.recv(65536):
            if delay_s:
                threading.Timer(delay_s, sink.sendall, (data,)).start()
            else:
                sink.sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            for arguments in ((client, server, 0.0), (server, client, DELAY_S)):
                threading.Thread(target=pump, args=arguments, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def loadtest(address: str, *options: str) -> subprocess.Popen[str]:
    """One typist for 15 seconds."""
    command = [KEYAHEAD, "loadtest", "--address", address, "--typists", "1", "--duration", "15", "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and result."""
    stdout, stderr = process.communicate(timeout=90)
    assert stdout, stderr
    return process.returncode, json.loads(stdout.splitlines()[-1])


def hold_up(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Stops the generator for most of the time, as a machine that is too small would."""
    generators: list[int] = []

    def find() -> bool:
        children = psutil.Process(process.pid).children()
        generators[:] = [child.pid for child in children if "keyahead.loadtest.generator" in child.cmdline()]
        return bool(generators)

    assert eventually(find, 30)
    until = time.monotonic() + 25
    while process.poll() is None and time.monotonic() < until and psutil.pid_exists(generators[0]):
        for number, seconds in ((signal.SIGSTOP, 0.3), (signal.SIGCONT, 0.1)):
            try:
                os.kill(generators[0], number)
            except ProcessLookupError:
                break
            time.sleep(seconds)
    return outcome(process)


def test_verdicts(stack: Running, tmp_path: Path) -> None:
    """One typist for 15 s gives a valid run, which is too short to pass. A service whose answers come 300 ms later fails. A generator that
    is held up makes the run invalid.
    """
    objectives = tmp_path / "objectives.toml"
    objectives.write_text(PATIENT)  # In 15 s of three people in cold files, few characters are shown in time.
    with slowed(stack.address) as slow_address, ThreadPoolExecutor() as pool:
        plain, slow, late = (
            loadtest(stack.address, "--engine-metrics", stack.triton_metrics, "--objectives", str(objectives)),
            loadtest(slow_address),
            loadtest(stack.address, "--seed", "1"),
        )
        outcomes = [pool.submit(outcome, plain), pool.submit(outcome, slow), pool.submit(hold_up, late)]
        (code, result), (slow_code, slow_result), (late_code, late_result) = (each.result() for each in outcomes)
    assert code == 3, result["verdict"]
    statuses = {case["name"]: case["status"] for case in result["verdict"]["objectives"]}
    assert statuses["generator.sent"] == "pass"
    assert result["systems"][0]["figures"]["asked"] == result["systems"][0]["generator"]["planned"] > 0
    assert "engine" in result["systems"][0]["figures"]["sources"]
    assert result["cancels"] is not None
    assert (slow_code, slow_result["verdict"]["status"]) == (1, "fail")
    assert (late_code, late_result["verdict"]["status"]) == (3, "invalid")
