"""Real completions, through every layer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import pytest

from keyahead.engine.contract import MAX_DRAFTS
from keyahead.engine.cpu.scheduler import MAX_CHUNK
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from tests.e2e.conftest import SOURCE, Running, eventually

KEYAHEAD = str(Path(sys.executable).parent / "keyahead")
HEAD = SOURCE[:900]
MEAN = "def mean(values):\n    return sum(values) / len(values)\n\n\ndef variance(values):\n    centre = me"


def test_up_shows_a_real_completion(stack: Running) -> None:
    """What `keyahead up` prints has the addresses and one completion with its stage timings."""
    sample = stack.started["sample"]
    assert isinstance(sample, dict)
    assert sample["text"]
    assert sample["source"] == "engine"
    assert sample["timings_ms"]["first_token"] > 0


def test_the_model_completes_code(stack: Running) -> None:
    """The half-typed name is healed and continued as the code before it suggests."""
    answer = stack.complete(MEAN, "\n")
    assert answer.text.startswith("an(values)")
    assert answer.source == pb.SOURCE_ENGINE
    assert answer.model.name == "qwen2.5-coder-0.5b"
    assert answer.tokens.prompt > 20
    assert answer.timings_ms.first_token > 0


def test_typing_through_needs_no_engine(stack: Running) -> None:
    """After an answer each further character of it is answered from memory."""
    whole = stack.complete(MEAN + "a", "\n").text
    time.sleep(1.5)  # the page is a second behind
    steps = stack.engine_counter("keyahead_engine_steps_total")
    for typed in range(1, len(whole)):
        answer = stack.complete(MEAN + "a" + whole[:typed], "\n")
        assert (answer.text, answer.source) == (whole[typed:], pb.SOURCE_MEMORY)
    time.sleep(1.5)
    assert stack.engine_counter("keyahead_engine_steps_total") == steps


def test_ghost_text_streams_and_ends_with_the_answer(stack: Running) -> None:
    """Deltas come before the end and are what the answer begins with."""
    document = pb.Document(path="a.py", split=pb.SplitText(prefix=HEAD + "\n\ndef fibonacci(n):\n", suffix="\n"))
    request = pb.CompleteRequest(document=document, trigger=pb.TRIGGER_MANUAL, max_tokens=40)
    events = list(stack.stub.StreamComplete(pb.StreamCompleteRequest(request=request), timeout=60))
    assert len(events) > 3
    assert events[-1].HasField("done")
    shown = "".join(event.delta for event in events[:-1])
    assert events[-1].done.text.startswith(shown[: len(events[-1].done.text)])


def test_an_automatic_request_is_never_late(stack: Running) -> None:
    """On a cold prompt that takes seconds to prefill the call ends within its deadline: marked, or answered from less of the prompt."""
    prefix = SOURCE[5000:7500]
    answer = stack.complete(prefix, timeout=0.4, trigger=pb.TRIGGER_AUTOMATIC)
    whole = stack.complete(prefix + " ", trigger=pb.TRIGGER_MANUAL)
    assert answer.finish_reason == pb.FINISH_REASON_DEADLINE or answer.tokens.prompt < whole.tokens.prompt


def test_a_newer_request_supersedes_the_older(stack: Running) -> None:
    """The older call of a session ends with ABORTED at once."""
    document = pb.Document(path="a.py", split=pb.SplitText(prefix=SOURCE[9000:11000]))
    request = pb.CompleteRequest(document=document, trigger=pb.TRIGGER_MANUAL, session_id="s1")
    older = stack.stub.Complete.future(request, timeout=30)
    time.sleep(0.2)
    newer = stack.complete("x = 1\ny = ", session_id="s1")
    assert newer.request_id
    with pytest.raises(grpc.RpcError) as raised:
        older.result()
    assert raised.value.code() is grpc.StatusCode.ABORTED


def test_a_cancelled_call_frees_the_engine(stack: Running) -> None:
    """When the client leaves in mid-prefill, hardly a token more is computed: seen on the engine's own counters."""
    before = stack.engine_counter("keyahead_engine_tokens_after_cancel_total")
    for turn in range(5):
        document = pb.Document(path="a.py", split=pb.SplitText(prefix=SOURCE[12000 + 200 * turn : 14000 + 200 * turn]))
        call = stack.stub.Complete.future(pb.CompleteRequest(document=document, trigger=pb.TRIGGER_MANUAL), timeout=30)
        time.sleep(0.3)
        call.cancel()
    cancelled = "keyahead_engine_cancelled_total"
    assert eventually(lambda: stack.engine_counter(cancelled) >= 5, 5)
    # At most what was running of each: a chunk, and drafts behind it.
    assert stack.engine_counter("keyahead_engine_tokens_after_cancel_total") - before <= 5 * (MAX_CHUNK + MAX_DRAFTS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    ret"),
        ("a.js", "function add(a, b) {\n  return a + b;\n}\n\nfunction sub(a, b) {\n  ret"),
        ("a.go", "package main\n\nfunc add(a, b int) int {\n\treturn a + b\n}\n\nfunc sub(a, b int) int {\n\tret"),
        ("a.rs", "fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n\nfn sub(a: i32, b: i32) -> i32 {\n    a"),
        ("a.c", "int add(int a, int b) {\n    return a + b;\n}\n\nint sub(int a, int b) {\n    ret"),
    ],
)
def test_the_command_line_completes_five_languages(stack: Running, tmp_path: Path, name: str, text: str) -> None:
    """`keyahead complete FILE:LINE:COL --json` gives a subtraction, whatever the language."""
    file = tmp_path / name
    file.write_text(text + "\n")
    lines = text.split("\n")
    place = f"{file}:{len(lines)}:{len(lines[-1]) + 1}"
    run = subprocess.run(
        [KEYAHEAD, "complete", place, "--json", "--address", stack.address], capture_output=True, text=True, check=True, timeout=90
    )
    answer = json.loads(run.stdout.splitlines()[-1])
    assert "a - b" in (lines[-1] + answer["text"])
    assert {"text", "finish_reason", "source", "timings_ms"} <= set(answer)


def test_eval_measures_the_service(stack: Running, tmp_path: Path) -> None:
    """`keyahead eval` runs tasks and their tests in the sandbox and reports shares."""
    task = {
        "task_id": "SingleLineInfilling/own/0",
        "entry_point": "add",
        "prompt": "def add(a, b):\n    # the sum of a and b\n",
        "suffix": "\n\ndef other():\n    return 1\n",
        "canonical_solution": "    return a + b",
        "test": "\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps(task) + "\n")
    command = [KEYAHEAD, "eval", "--tasks", str(file), "--json", "--address", stack.address]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)
    result = json.loads(run.stdout.splitlines()[-1])
    assert (result["tasks"], result["exact_match"], result["pass_at_1"]) == (1, 1.0, 1.0)


def test_prometheus_pages_show_what_happened(stack: Running) -> None:
    """The service's page has the exact 0.2 s boundary and the stages, and never text."""
    page = urllib.request.urlopen(stack.metrics, timeout=5).read().decode()
    assert 'le="0.2"' in page
    assert 'keyahead_stage_seconds_count{stage="first_token"}' in page
    assert 'keyahead_cache_lookups_total{outcome="typed_through",tier="memory"}' in page
    assert "variance" not in page
