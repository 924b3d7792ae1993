"""`keyahead capacity`, for people and for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from keyahead.capacity import sizing, study
from keyahead.cli.main import app
from tests.loadtest.results import result, whole


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of fewer requests."""
    monkeypatch.setattr(sizing, "_REQUESTS", 400)
    monkeypatch.setattr(study, "_REQUESTS", 400)


def run(*arguments: str) -> Result:
    """`keyahead capacity` with these arguments."""
    return CliRunner().invoke(app, ["capacity", *arguments])


def found(*arguments: str) -> dict[str, Any]:
    """Its JSON."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_thousand_developers_on_processors() -> None:
    """A table for people with every part, and what it was computed from; GPUs are not spoken of."""
    done = run("--developers", "1000", "--gpu", "cpu")
    assert done.exit_code == 0, done.stderr
    for part in ("engines", "latency", "services", "Redis", "network", "cost", "a developer", "Assumed:"):
        assert part in done.stdout
    assert "steps are measured" in " ".join(done.stdout.split())
    assert "datasheet" not in done.stdout


def test_json_has_the_same_and_says_that_no_gpu_was_measured() -> None:
    """All that a program needs, with prices, their sources and the assumptions; the prices given are used."""
    few = found("--developers", "10000", "--gpu", "l4", "--price-engine-hour", "1", "--price-core-hour", "0.5")
    assert few["planned"]["p99_ms"] <= 200
    assert few["bill"]["engines_cost"] == pytest.approx(few["bill"]["engines"] * 730)
    assert few["cost_per_developer"] == pytest.approx(few["bill"]["cost"] / 10_000)
    assert any("nothing is measured" in line for line in few["assumptions"])
    assert all(seat["source"] for seat in few["seats"].values())


def test_the_answer_moves_with_the_options() -> None:
    """With fewer hits an engine carries fewer; twice as many who type, and no headroom, need other numbers of engines."""
    base = found("--developers", "2000", "--gpu", "cpu")
    other = found("--developers", "2000", "--gpu", "cpu", "--hit-share", "0.4", "--concurrency", "0.2", "--headroom", "0")
    assert other["carried_typists"] < base["carried_typists"]
    assert other["active"] == 2 * base["active"]
    assert base["bill"]["typists_per_engine"] <= base["carried_typists"] * 2 / 3
    assert other["bill"]["engines"] == math.ceil(other["active"] / other["carried_typists"]) + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--concurrency", "0"), ("--concurrency", "above 0")),
        (("--concurrency", "1.5"), ("--concurrency", "at most 1")),
        (("--headroom", "0.95"), ("--headroom", "at most 0.9")),
        (("--hit-share", "-0.1"), ("--hit-share", "from 0")),
        (("--gpu", "cpu", "--model", "qwen2.5-coder-7b"), ("--model", "leave it out")),
        (("--gpu", "cpu", "--precision", "fp8"), ("--precision", "leave it out")),
        (("--gpu", "a10", "--precision", "fp8"), ("FP8", "A10")),
        (("--calibrate", "nowhere.json"), ("--calibrate nowhere.json", "name a result")),
    ],
)
def test_a_wrong_option_is_named_with_its_cure(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    """One sentence and exit code 2, before anything is simulated."""
    done = run("--developers", "100", *arguments)
    assert done.exit_code == 2
    for word in words:
        assert word.lower() in done.stderr.lower()


def test_a_result_that_cannot_be_calibrated_with(tmp_path: Path) -> None:
    """No JSON, and a run without hits: each is said with the file's name and the cure."""
    file = tmp_path / "result.json"
    file.write_text("text")
    assert "no JSON" in run("--developers", "100", "--gpu", "cpu", "--calibrate", str(file)).stderr
    file.write_text(json.dumps(whole(result([50.0] * 100))))
    done = run("--developers", "100", "--gpu", "cpu", "--calibrate", str(file))
    assert done.exit_code == 2
    assert "--duration" in done.stderr
    assert str(file) in done.stderr.replace("\n", "")
