"""`keyahead eval` against a scripted service, with the real sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from keyahead.cli import eval as module
from keyahead.cli.main import app
from keyahead.cli.sandbox import SandboxError
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb

if TYPE_CHECKING:
    from tests.cli.conftest import ScriptedService


def task(kind: str, number: int, solution: str = "    y = x + 1\n") -> dict[str, str]:
    """A task whose prompt tells the scripted service its number."""
    return {
        "task_id": f"{kind}/X/{number}",
        "entry_point": "f",
        "prompt": f"# {number}\ndef f(x):\n",
        "suffix": "    return y\n",
        "canonical_solution": solution,
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    }


TASKS = [task("SingleLineInfilling", 0), task("SingleLineInfilling", 1), task("MultiLineInfilling", 2), task("MultiLineInfilling", 3)]
ANSWERS = ["    y = x + 1", "    y = 1 + x", "    y = x\n    y += 1", "    y = None"]
"""Exact; another that passes; a block that passes; one that fails."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The tasks above."""
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in TASKS))
    return path


def number_of(request: pb.CompleteRequest) -> int:
    """The number in the task's prompt."""
    return int(request.document.split.prefix.split("\n")[0].removeprefix("# "))


def run(service: ScriptedService, file: Path, *arguments: str) -> Result:
    """`keyahead eval --json` on these tasks."""
    service.answers(lambda request: ANSWERS[number_of(request)])
    return CliRunner().invoke(app, ["eval", "--tasks", str(file), "--address", service.address, "--json", *arguments])


def parsed(result: Result) -> dict[str, Any]:
    """The object on the last line."""
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_the_figures_are_right(service: ScriptedService, file: Path, concurrency: str) -> None:
    """Equality and tests are counted apart, over all and by kind, whatever the concurrency."""
    answer = parsed(run(service, file, "--concurrency", concurrency))
    assert (answer["tasks"], answer["exact_match"], answer["pass_at_1"]) == (4, 0.25, 0.75)
    assert answer["verdicts"] == {"passed": 3, "failed": 1}
    assert answer["sources"] == {"in_flight": 4}
    assert answer["useful_characters"] == (len("y = x + 1") + len("y =") + len("y = x") + len("y =")) / 4
    assert 0 < answer["latency_ms"]["p50"] <= answer["latency_ms"]["p99"]
    kinds = {kind: (each["tasks"], each["exact_match_count"], each["pass_at_1"]) for kind, each in answer["by_kind"].items()}
    assert kinds == {"SingleLineInfilling": (2, 1, 1.0), "MultiLineInfilling": (2, 0, 0.5)}


def test_each_task_is_one_call_as_an_editor_makes_it(service: ScriptedService, file: Path) -> None:
    """Text before and after the hole, python, by hand; a line where the hole is one, else a block."""
    parsed(run(service, file))
    assert [number_of(each) for each in service.requests] == [0, 1, 2, 3]
    assert {each.document.split.suffix for each in service.requests} == {"    return y\n"}
    assert {(each.document.language, each.trigger, each.session_id) for each in service.requests} == {("python", pb.TRIGGER_MANUAL, "")}
    assert [each.mode for each in service.requests] == [pb.MODE_SINGLE_LINE] * 2 + [pb.MODE_BLOCK] * 2


def test_a_limit_is_a_sample_by_the_seed(service: ScriptedService, file: Path) -> None:
    """So many tasks are asked, the same ones for the same seed."""
    for _ in range(2):
        assert parsed(run(service, file, "--limit", "2", "--seed", "5"))["tasks"] == 2
    asked = [number_of(each) for each in service.requests]
    assert asked[:2] == asked[2:]


def test_a_failed_call_ends_the_evaluation(service: ScriptedService, file: Path) -> None:
    """No figure over the rest: exit code 1, the error as the only object."""

    def fail(_request: pb.CompleteRequest, context: grpc.ServicerContext) -> pb.CompleteResponse:
        context.abort(grpc.StatusCode.INTERNAL, "broken")

    service.behaves(fail)
    result = CliRunner().invoke(app, ["eval", "--tasks", str(file), "--address", service.address, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"error": "The service refused with INTERNAL: broken.", "exit_code": 1}


def test_bad_tasks_are_refused_before_any_call(service: ScriptedService, file: Path) -> None:
    """Exit code 2 with file, line and field."""
    file.write_text(json.dumps(TASKS[0]) + '\n{"task_id": "x"}\n')
    result = run(service, file)
    assert (result.exit_code, service.requests) == (2, [])
    assert "line 2: field 'entry_point' is missing" in result.stderr


def test_without_a_sandbox_nothing_is_run(service: ScriptedService, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 with the sandbox's sentence."""

    class Nowhere:
        @staticmethod
        def find() -> None:
            raise SandboxError("No sandbox works here: run as an ordinary user.")

    monkeypatch.setattr(module, "Sandbox", Nowhere)
    result = run(service, file)
    assert (result.exit_code, service.requests) == (2, [])
    assert "No sandbox works here" in result.stderr


def test_people_get_a_table(service: ScriptedService, file: Path) -> None:
    """Without `--json` the figures are a table with a row for each kind and one for all."""
    service.answers(lambda request: ANSWERS[min(number_of(request), 2)])
    result = CliRunner().invoke(app, ["eval", "--tasks", str(file), "--address", service.address], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for words in ("SingleLineInfilling", "MultiLineInfilling", "all", "exact match", "pass@1"):
        assert words in result.stdout
