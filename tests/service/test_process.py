"""The service as a process of its own: signals, a taken port, flat memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROCESS = """
import asyncio, os, sys, types
from keyahead.service.config import ServiceConfig
from keyahead.service.model import Answer, FinishReason, Source

class Completer:
    ready = True
    def at_hand(self, query):
        return None
    async def complete(self, query, deadline, show):
        await asyncio.sleep(float(query.prefix))
        return Answer("done", FinishReason.STOP, Source.ENGINE, 1, 1)
    async def aclose(self):
        pass

pipeline = types.ModuleType("keyahead.service.pipeline")
pipeline.build = lambda config, metrics, adapters: Completer()
sys.modules[pipeline.__name__] = pipeline
from keyahead.service.server import run
run(ServiceConfig.from_environment(os.environ))
"""


def sleeping(seconds: str) -> pb.CompleteRequest:
    """A request that takes so long."""
    return pb.CompleteRequest(document=pb.Document(split=pb.SplitText(prefix=seconds)), trigger=pb.TRIGGER_MANUAL)


@contextmanager
def process(folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """The service's own process, as `run` makes it, and its first log line; the completer sleeps as long as the prefix says."""
    ports = {"KEYAHEAD_GRPC_PORT": "0", "KEYAHEAD_METRICS_PORT": "0", "KEYAHEAD_MODEL_FOLDER": str(folder)}
    log = folder / f"log-{len(list(folder.iterdir()))}"
    with log.open("w") as stream:
        child = subprocess.Popen([sys.executable, "-c", PROCESS], env={**os.environ, **ports, **environment}, stderr=stream)
    try:
        yield child, _first_address(child, log)
    finally:
        child.kill()
        child.wait()


def _first_address(child: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    """The log line with the addresses, or what was said instead when the process has ended."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        ended = child.poll() is not None
        lines = log.read_text().splitlines()
        for line in lines:
            if '"serving"' in line:
                return dict(json.loads(line))
        if ended:
            return {"error": "\n".join(line for line in lines if not line.startswith("{"))}
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_after_its_running_call(tmp_path: Path, sent: signal.Signals) -> None:
    """The call in flight is answered; the process exits with 0, and well within the grace although somebody watches health."""
    with process(tmp_path) as (child, started):
        async with grpc.aio.insecure_channel(started["address"]) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="keyahead.v1.Autocomplete"))
            assert (await watch.read()).status
            call = asyncio.ensure_future(pb_grpc.AutocompleteStub(channel).Complete(sleeping("0.5")))
            await asyncio.sleep(0.2)
            sent_at = time.monotonic()
            child.send_signal(sent)
            assert (await call).text == "done"
            assert await asyncio.to_thread(child.wait, 20) == 0
            assert time.monotonic() - sent_at < 4
            watch.cancel()


async def test_a_second_process_on_the_same_port_exits_with_2_and_one_line(tmp_path: Path) -> None:
    """No traceback and none of grpc's own lines."""
    with process(tmp_path) as (_, first), process(tmp_path, KEYAHEAD_GRPC_PORT=first["address"].rpartition(":")[2]) as (child, second):
        assert "KEYAHEAD_GRPC_PORT" in second["error"]
        assert "\n" not in second["error"]
        assert child.returncode == 2


async def test_the_process_s_memory_is_flat_over_thousands_of_cancelled_calls(tmp_path: Path) -> None:
    """6,000 calls may cost 4 MB of noise, so a leak of 0.7 KB a call shows; the client, which leaks 1 KB a cancel, is another process."""
    with process(tmp_path) as (_, started):
        before = 0.0
        async with grpc.aio.insecure_channel(started["address"]) as channel:
            stub = pb_grpc.AutocompleteStub(channel)
            for batch in range(160):
                calls = [stub.Complete(sleeping("30")) for _ in range(50)]
                await asyncio.sleep(0.02)
                for call in calls:
                    call.cancel()
                # On a machine that stalls, grpc may refuse some of so many streams instead.
                await asyncio.gather(*calls, return_exceptions=True)
                if batch == 39:
                    before = _sample(started["metrics_address"], "process_resident_memory_bytes")
        await asyncio.sleep(0.2)
        assert _sample(started["metrics_address"], "keyahead_requests_in_flight") == 0
        assert _sample(started["metrics_address"], "process_resident_memory_bytes") - before < 4e6


def _sample(address: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
        found = re.search(rf"^{name} (\S+)$", page.read().decode(), re.MULTILINE)
    assert found
    return float(found[1])
