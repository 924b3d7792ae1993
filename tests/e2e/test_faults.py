"""What dies is seen, told, and comes back; and in the end nothing is left."""

from __future__ import annotations

import random
import time
from pathlib import Path

import grpc
import psutil
import pytest

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from tests.e2e.conftest import SOURCE, Running, eventually, start, stop

PREFIX = "def double(x):\n    return x * 2\n\n\ndef triple(x):\n    ret"


@pytest.mark.parametrize("victim", ["triton_python_backend_stub", "bin/tritonserver"])
def test_a_killed_engine_is_seen_and_restarted(stack: Running, victim: str) -> None:
    """The call in flight gets UNAVAILABLE, health says not serving (while the process lives on), and soon all is well again."""
    document = pb.Document(path="a.py", split=pb.SplitText(prefix=SOURCE[20000:22500]))
    call = stack.stub.Complete.future(pb.CompleteRequest(document=document, trigger=pb.TRIGGER_MANUAL), timeout=30)
    time.sleep(0.4)
    stack.child(victim).kill()
    with pytest.raises(grpc.RpcError) as raised:
        call.result()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert eventually(lambda: not stack.is_serving(), 5)
    assert stack.is_serving("")
    assert eventually(stack.is_serving, 90)
    assert stack.complete(PREFIX, "\n").text


def test_a_restarted_engine_finds_in_redis_what_the_dead_one_has_computed(stack: Running) -> None:
    """The beginning of a long document is read, not computed again; only what is typed since is new to it."""
    prefix = SOURCE[30000:32500]
    stack.complete(prefix, "\n")
    assert eventually(lambda: stack.engine_counter("keyahead_engine_kv_store_written_bytes_total") > 0, 30)
    stack.child("triton_python_backend_stub").kill()
    assert eventually(lambda: not stack.is_serving(), 10)
    assert eventually(stack.is_serving, 90)
    stack.complete(prefix + " zzq", "\n")
    assert eventually(lambda: stack.engine_counter("keyahead_engine_kv_store_tokens_total") >= 256, 10)


def test_a_killed_service_is_restarted_and_finds_its_answers_in_redis(stack: Running) -> None:
    """What one service process has answered, the next one has from Redis."""
    prefix = PREFIX.replace("triple", "fourfold")
    text = stack.complete(prefix, "\n").text
    time.sleep(0.3)
    stack.child("serve").kill()
    assert eventually(lambda: not stack.is_serving(""), 5)
    assert eventually(stack.is_serving, 60)
    answer = stack.complete(prefix, "\n")
    assert (answer.text, answer.source) == (text, pb.SOURCE_REDIS)


def test_a_killed_redis_is_only_a_miss(stack: Running) -> None:
    """Completions go on while Redis is gone, and it is started again."""
    stack.child("redis-server").kill()
    for turn in range(5):
        assert stack.complete(PREFIX.replace("triple", f"times_{turn}"), "\n").text
    assert eventually(lambda: bool(stack.child("redis-server").pid), 20)


def test_malformed_requests_get_a_clean_status(stack: Running) -> None:
    """Random bytes, truncated messages and broken fields: a status that names the fault, never UNKNOWN, and the service goes on."""
    send = stack.channel.unary_unary("/keyahead.v1.Autocomplete/Complete", bytes, pb.CompleteResponse.FromString)
    good = pb.CompleteRequest(document=pb.Document(path="a.py", split=pb.SplitText(prefix="x"))).SerializeToString()
    rng = random.Random(7)
    clean = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED}
    for turn in range(300):
        wire = rng.randbytes(rng.randrange(200)) if turn % 2 else good[: rng.randrange(len(good))] + rng.randbytes(3)
        assert send.future(wire, timeout=2).code() in clean | {grpc.StatusCode.OK}
    assert stack.is_serving()
    assert stack.complete(PREFIX.replace("triple", "after"), "\n").text


def test_ctrl_c_leaves_nothing_behind() -> None:
    """No process, no socket, no shared memory: with the small model, on ports of its own."""
    running = start("--model", "smollm2-135m", "--no-redis")
    folder = Path(running.started["addresses"]["logs"])  # type: ignore[index]
    assert list(Path("/dev/shm").glob(f"{folder.name}*"))
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert len(children) >= 3
    assert stop(running) == 0
    assert eventually(lambda: not any(child.is_running() for child in children), 5)
    assert not list(Path("/dev/shm").glob(f"{folder.name}*"))
    assert not folder.exists()
