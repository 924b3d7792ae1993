"""A unique word in what a user types and a model answers is nowhere to be seen, in anything that a whole stack writes, keeps or shows."""

from __future__ import annotations

import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from redis import Redis

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from tests.collector import Collector, collecting
from tests.e2e.conftest import Running, eventually, start, stop
from tests.e2e.test_session import Editor

CANARY = "kanarienvogel"
PREFIX = "".join(f"def {CANARY}_{n}(x):\n    return x + {n}\n\n\n" for n in range(20)) + f"def {CANARY}_20(x):\n    return {CANARY}"
DOCUMENT = pb.Document(path=f"{CANARY}.py", split=pb.SplitText(prefix=PREFIX, suffix=f"\n# {CANARY}\n"))
CONTEXT = [pb.ContextFile(path=f"{CANARY}_too.py", text=f"{CANARY} = 1\n")]
BAD = [
    pb.Document(path=CANARY * 1000, split=pb.SplitText(prefix=f"{CANARY}\0")),
    pb.Document(path="a.py", whole=pb.CursorText(text=CANARY, line=9)),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the stack keeps its files; a socket's path must be short."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver of traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture
def stack(folder: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A stack that traces and logs all it can; with the small model."""
    settings = {
        "TMPDIR": str(folder),
        "KEYAHEAD_EVENT_LOG": str(folder / "events"),
        "KEYAHEAD_OTLP_ENDPOINT": collector.endpoint,
        "KEYAHEAD_TRACE_RATIO": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    running = start("--model", "smollm2-135m")
    yield running
    assert stop(running) == 0


def use(stack: Running) -> list[str]:
    """Everything that a client can do; the errors that came of it."""
    request = pb.CompleteRequest(document=DOCUMENT, context=CONTEXT, trigger=pb.TRIGGER_MANUAL, mode=pb.MODE_BLOCK)
    answer = stack.stub.Complete(request, timeout=60)
    assert list(stack.stub.StreamComplete(pb.StreamCompleteRequest(request=request), timeout=60))
    assert stack.stub.Report(pb.ReportRequest(request_id=answer.request_id, kind=pb.OUTCOME_KIND_ACCEPTED), timeout=10).known
    editor = Editor(stack)
    editor.type(f"\n\ndef {CANARY}_21(x):\n    return ")
    assert eventually(lambda: any(editor.ghosts), 20)
    editor.type(CANARY.upper())
    editor.cancel()
    errors = []
    for bad in BAD:
        with pytest.raises(grpc.RpcError) as raised:
            stack.stub.Complete(pb.CompleteRequest(document=bad), timeout=10)
        errors.append(f"{raised.value.details()} {raised.value.trailing_metadata()}")
    return errors


def in_redis(folder: Path) -> bytes:
    """Every key and value, as Redis would write them into a dump."""
    (path,) = folder.glob("*/redis.sock")
    with Redis(unix_socket_path=str(path)) as redis:
        redis.config_set("rdbcompression", "no")
        return b"\n".join(key + redis.dump(key) for key in redis.keys("*"))


def test_a_canary_is_nowhere_to_be_seen(stack: Running, folder: Path, collector: Collector) -> None:
    """Logs of all programs, event log, metrics and status page, errors, traces, and what Redis holds: completions and KV blocks."""
    errors = use(stack)
    assert eventually(lambda: all(name in in_redis(folder) for name in (b"c:", b"k:")), 20)
    assert eventually(lambda: bool(collector.spans), 20)
    time.sleep(0.5)  # what else there may be to write
    seen = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pages = [stack.metrics, stack.metrics.removesuffix("metrics"), stack.triton_metrics]
    seen |= {page: urllib.request.urlopen(page, timeout=5).read() for page in pages}
    seen |= {"errors": repr(errors).encode(), "traces": repr(collector.spans).encode(), "redis": in_redis(folder)}
    assert b'"accepted"' in seen["events"]
    assert any(b'"call"' in text for name, text in seen.items() if name.endswith("service.log"))
    assert not [name for name, text in seen.items() if CANARY.encode() in text.lower()]
