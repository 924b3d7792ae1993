"""`keyahead engine`: a plan as text and JSON, dry runs that print the very commands, and refusals as sentences."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keyahead.cli.main import app
from keyahead.engine.trtllm import gpus
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from tests.engine.trtllm.samples import checkpoint, facts

runner = CliRunner()
PLAN = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8)
ASKED = ["--model", "qwen2.5-coder-1.5b", "--gpu", "l4", "--precision", "fp8"]


def test_a_plan_for_people() -> None:
    """The commands, what it needs, what it takes, and every assumption."""
    result = runner.invoke(app, ["engine", "plan", *ASKED])
    assert result.exit_code == 0
    for text in (
        shlex.join(PLAN.build_command),
        shlex.join(PLAN.checkpoint_command),
        "28672 bytes a token",
        "219 ms (roof 143)",
        "Assumed",
    ):
        assert text in result.stdout


def test_a_plan_for_programs() -> None:
    """The last line is the plan as one object."""
    result = runner.invoke(app, ["engine", "plan", *ASKED, "--json"])
    assert json.loads(result.stdout) == PLAN.to_json()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--gpu", "a10"], "FP8 needs compute capability 8.9"),
        (["--kv-cache", "fp8"], "issues 4218 and 2699"),
        (["--option", "max_batch_size=2048"], "51200 tokens"),
        (["--option", "--max_draft_len=8"], "more than 8"),
        (["--parameter", "exclude_input_in_output=false"], "begin with the prompt"),
        (["--model", "qwen2.5-coder-3b"], "--accept-licence"),
        (["--image-digest", "latest"], "no image digest"),
        (["--runtime", "llm-api", "--precision", "int8-sq"], "formats-of-pytorch"),
        (["--lora-module", "q_proj"], "give --lora-rank too"),
        (["--option", "gemm_plugin=fp7"], "give one of auto"),
        (["--option", "kv_cache_type"], "has no value"),
        (["--parameter", "kv_cache_host_memory_bytes=2GB"], "give a whole number"),
        (["--max-drafts", "4"], "verify 8 drafts at once"),
        (["--runtime", "llm-api", "--option", "max_draft_len=3"], "leave them out"),
    ],
)
def test_a_refusal_is_a_sentence(options: list[str], reason: str) -> None:
    """Exit code 2; programs get it as JSON, too."""
    result = runner.invoke(app, ["engine", "plan", *ASKED, *options, "--json"])
    assert result.exit_code == 2
    assert reason in json.loads(result.stdout)["error"]


@pytest.mark.parametrize(
    ("action", "programs"),
    [
        ("build", ["/probe.py", "quantize.py", "trtllm-build"]),
        ("prepare", ["quantize.py", "trtllm-build"]),
        ("preflight", ["tritonserver", "pytest"]),
        ("serve", ["--brief", "tritonserver"]),
    ],
)
def test_a_dry_run_prints_and_runs_nothing(action: str, programs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command on a line of its own, as a shell would take it; no docker is there to be run."""
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ["--work", str(tmp_path / "work"), "--checkpoint", str(checkpoint(tmp_path / "hf")), "--dry-run", "--json"]
    result = runner.invoke(app, ["engine", action, *ASKED, *options])
    assert result.exit_code == 0, result.output
    commands = json.loads(result.stdout.splitlines()[-1])["commands"]
    assert [shlex.split(line) for line in result.stderr.splitlines()] == commands
    for program in programs:
        assert any(word.endswith(program) for command in commands for word in command)
    assert not (tmp_path / "work").exists()


def test_building_needs_a_checkpoint() -> None:
    """The sentence names the option."""
    result = runner.invoke(app, ["engine", "build", *ASKED])
    assert result.exit_code == 2
    assert "--checkpoint" in result.stderr


def test_serving_needs_a_preflight(tmp_path: Path) -> None:
    """An engine that nobody has tested is not served."""
    result = runner.invoke(app, ["engine", "serve", *ASKED, "--work", str(tmp_path)])
    assert result.exit_code == 2
    assert "keyahead engine preflight" in result.stderr


def test_a_plan_for_the_llm_api() -> None:
    """It says what the service has to be told, and has one command."""
    result = runner.invoke(app, ["engine", "plan", *ASKED, "--runtime", "llm-api"])
    assert result.exit_code == 0
    assert "KEYAHEAD_MAX_DRAFTS=0" in result.stdout
    assert '"speculative_config": {"max_draft_len": 8' in result.stdout
    assert "trtllm-build" not in result.stdout


def test_the_steps_where_there_is_no_docker(tmp_path: Path) -> None:
    """`prepare` and `check` agree on the plan by the folder; what is missing or wrong is a sentence."""
    work = ["--work", str(tmp_path / "release"), "--json"]
    assert "keyahead engine prepare" in runner.invoke(app, ["engine", "check", *work]).stdout
    bf16 = [*ASKED[:-1], "bf16", "--checkpoint", str(checkpoint(tmp_path / "hf"))]
    assert runner.invoke(app, ["engine", "prepare", *bf16, *work]).exit_code == 0
    (tmp_path / "release" / "probe.log").write_text(json.dumps(facts(gpus.get("a10"), "NVIDIA A10")))
    result = runner.invoke(app, ["engine", "check", *work])
    assert result.exit_code == 2
    assert "The plan is for l4, and the GPU here is NVIDIA A10" in json.loads(result.stdout)["error"]
    (tmp_path / "release" / "probe.log").write_text(json.dumps(facts(gpus.get("l4"), "NVIDIA L4", triton_release="26.04")))
    assert runner.invoke(app, ["engine", "check", *work]).exit_code == 1
    (tmp_path / "release" / "probe.log").write_text(json.dumps(facts(gpus.get("l4"), "NVIDIA L4")))
    assert runner.invoke(app, ["engine", "check", *work]).exit_code == 0
