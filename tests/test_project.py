"""The project's own rules hold: lint, types, imports, and the protocol's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        "ruff check",
        "ruff format --check",
        "mypy",
        "lint-imports",
        "buf lint",
        "python scripts/gen_proto.py --check",
        "python scripts/gen_slo.py --check",
    ],
)
def test_the_check_passes(command: str) -> None:
    """What `make check` runs, one by one."""
    program, *arguments = command.split()
    run = subprocess.run([BIN / program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
