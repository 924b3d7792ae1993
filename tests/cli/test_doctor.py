"""`keyahead doctor` on this machine, with caches whole, empty and damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyahead.engine import catalogue
from keyahead.engine.fetch import weights_path
from keyahead.engine.store import RichProgress
from keyahead.stack import checks, libpython, triton
from keyahead.stack.checks import Level

KEYAHEAD = [sys.executable, "-c", "from keyahead.cli.main import app; app()"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one."""
    monkeypatch.setenv("KEYAHEAD_CACHE", str(tmp_path))
    return tmp_path


def doctor(*options: str) -> tuple[int, str]:
    """Exit code and standard output."""
    run = subprocess.run([*KEYAHEAD, "doctor", *options], env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in run.stderr
    return run.returncode, run.stdout


@pytest.mark.usefixtures("cache")
def test_an_empty_cache_is_no_fault() -> None:
    """What the set-up will get is a note, so the exit code is 0; the last line is one JSON object with every check."""
    code, output = doctor("--json")
    answer = json.loads(output.splitlines()[-1])
    assert (code, answer["healthy"]) == (0, True)
    assert {name for name, each in answer["checks"].items() if each["level"] == "note"} >= {"triton", "weights", "model"}
    assert answer["checks"]["python"]["level"] == "ok"


@pytest.mark.usefixtures("cache")
def test_damaged_weights_are_a_fault() -> None:
    """The hash is checked: exit code 1, and the table names the file and the cure."""
    path = weights_path(catalogue.get("smollm2-135m"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not weights")
    code, output = doctor("--model", "smollm2-135m")
    assert code == 1
    text = " ".join(output.split())
    assert "fail weights" in text
    assert "is damaged: remove it" in text


def test_the_installed_triton_starts() -> None:
    """Every file is as in the wheel, and server and stub load their libraries."""
    triton.install(RichProgress(), offline=False)
    libpython.install(RichProgress(), offline=False)
    assert checks.triton_server().level is Level.OK


def test_a_full_disk_and_little_memory_are_faults(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no more than this machine has, the limits cannot be met; each says what is needed."""
    assert not list(cache.iterdir())
    for limit in ("_MIN_MEMORY_BYTES", "_MIN_DISK_BYTES", "_MIN_SHM_BYTES"):
        monkeypatch.setattr(checks, limit, 1 << 60)
    findings = checks.memory(), checks.disk(), checks.shared_memory()
    assert [finding.level for finding in findings] == [Level.FAIL] * 3
    assert "close other programs" in findings[0].detail
