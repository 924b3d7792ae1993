"""An engine built in the container itself: the script runs the plan's commands, once, and only with the right TensorRT-LLM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyahead.engine.store import SetupError
from keyahead.engine.trtllm import job
from keyahead.engine.trtllm.image import TRTLLM_VERSION
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from tests.engine.trtllm.samples import checkpoint, code

PLAN = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8)
FAKE = f"""#!{sys.executable}
import os, pathlib, sys
if sys.argv[1] == "-c":
    print(os.environ["FAKE_VERSION"])
else:
    with open(os.environ["FAKE_LOG"], "a") as log:
        log.write(" ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
    if pathlib.Path(sys.argv[0]).name == os.environ["FAKE_FAIL"]:
        sys.exit(3)
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A prepared folder."""
    job.prepare(PLAN, checkpoint(tmp_path / "checkpoint"), tmp_path / "release", code(tmp_path / "code"))
    return tmp_path / "release"


def build(release: Path, version: str = TRTLLM_VERSION, fail: str = "") -> tuple[int, list[str]]:
    """Run the script where the container's programs keep a record: exit code and commands."""
    programs = release.parent / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("python3", "trtllm-build"):
        (programs / name).write_text(FAKE)
        (programs / name).chmod(0o755)
    log = release.parent / "log"
    log.write_text("")
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "FAKE_LOG": str(log), "FAKE_VERSION": version, "FAKE_FAIL": fail}
    run = subprocess.run(["sh", release / job.SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False)
    return run.returncode, log.read_text().splitlines()


def test_the_script_runs_the_plan_in_the_folder(release: Path) -> None:
    """The plan's two commands, word for word but for the places; then the engine is whole."""
    places = {"/checkpoint": f"{release.parent}/checkpoint", "/calibration": f"{release}/calibration"}
    places |= {f"/made/{name}": f"{release}/{name}" for name in ("checkpoint", "engine")}
    expected = [" ".join(places.get(word, word) for word in command) for command in (PLAN.checkpoint_command, PLAN.build_command)]
    assert build(release) == (0, expected)
    assert (release / job.WHOLE).exists()
    assert (release / "calibration" / "train.jsonl").exists()
    assert not [word for line in expected for word in line.split() if word.startswith(("/made", "/calibration", "/checkpoint"))]


def test_a_whole_engine_is_not_built_again(release: Path) -> None:
    """The Job may run as often as it likes."""
    build(release)
    assert build(release) == (0, [])


def test_a_failure_leaves_no_whole_engine(release: Path) -> None:
    """The next try begins anew."""
    code, commands = build(release, fail="trtllm-build")
    assert code == 3
    assert len(commands) == 2
    assert not (release / job.WHOLE).exists()
    assert build(release)[0] == 0


def test_another_version_builds_nothing(release: Path) -> None:
    """An engine is tied to its version."""
    assert build(release, version="1.3.0") == (1, [])


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(SetupError, match="num_hidden_layers"):
        job.prepare(PLAN, checkpoint(tmp_path / "checkpoint", num_hidden_layers=2), tmp_path / "release", None)
    assert not (tmp_path / "release").exists()
