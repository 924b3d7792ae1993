"""The load test against the real stack, undisturbed and disturbed on purpose."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.conftest import Running, eventually
from tests.loadtest.results import PATIENT

KEYAHEAD = str(Path(sys.executable).parent / "keyahead")
DELAY_S = 0.06


@contextmanager
def slowed(address: str) -> Iterator[str]:
    """A proxy that hands on the service's answers 60 ms later."""
    host, port = address.split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    sockets = [listener]

    def accept() -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                sockets.extend((client, server))
                join(client, server, 0.0)
                join(server, client, DELAY_S)

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    for each in sockets:
        each.close()


def join(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    """Hands on what comes, in its order and so much later."""
    pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def take() -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                pieces.put((time.monotonic() + delay_s, data))
        pieces.put((0.0, b""))

    def give() -> None:
        with suppress(OSError):
            while (piece := pieces.get())[1]:
                time.sleep(max(0.0, piece[0] - time.monotonic()))
                sink.sendall(piece[1])

    for work in (take, give):
        threading.Thread(target=work, daemon=True).start()


def loadtest(address: str, *options: str) -> subprocess.Popen[str]:
    """One typist for 15 seconds, unless the options say otherwise."""
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
    """Typists who call and who use sessions are answered, and a patient judge finds no fault. A service whose answers come 60 ms later
    fails. A generator that is held up makes the run invalid.
    """
    objectives = tmp_path / "objectives.toml"
    # In 15 s of five people in cold files, on two cores with other tests, some requests are slow and few characters shown in time.
    objectives.write_text(PATIENT.replace("slow_share = 0.01", "slow_share = 0.5"))
    with slowed(stack.address) as slow_address, ThreadPoolExecutor() as pool:
        plain, session, slow, late = (
            loadtest(stack.address, "--engine-metrics", stack.triton_metrics, "--objectives", str(objectives)),
            loadtest(stack.address, "--via", "session", "--seed", "2"),
            loadtest(slow_address, "--typists", "2", "--seed", "3"),
            loadtest(stack.address, "--seed", "1"),
        )
        outcomes = [pool.submit(outcome, each) for each in (plain, session, slow)] + [pool.submit(hold_up, late)]
        (code, result), (_, session_result), (slow_code, slow_result), (late_code, late_result) = (each.result() for each in outcomes)
    assert code in {0, 3}, result["verdict"]
    statuses = {case["name"]: case["status"] for case in result["verdict"]["objectives"]}
    assert statuses["generator.sent"] == "pass"
    assert result["systems"][0]["figures"]["asked"] == result["systems"][0]["generator"]["planned"] > 0
    assert result["systems"][0]["figures"]["outcomes"]["answered"] > 0
    assert result["cancels"] is not None
    by_session = session_result["systems"][0]
    assert by_session["figures"]["asked"] == by_session["generator"]["planned"] > 0
    assert by_session["figures"]["outcomes"]["answered"] > 0
    assert not any("RESYNC" in code for code in by_session["figures"]["errors"])
    assert (slow_code, slow_result["verdict"]["status"]) == (1, "fail")
    assert (late_code, late_result["verdict"]["status"]) == (3, "invalid")
