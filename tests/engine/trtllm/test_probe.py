"""The probe runs with nothing but the standard library, and says null where there is nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from keyahead.engine.trtllm.facts import PROBE, Facts, Origin

SMI = """#!/bin/sh
[ "$*" = "--query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader" ] || exit 2
echo "NVIDIA L4, 8.9, 590.48.01, 23034 MiB"
"""


def probed(path: str, **environment: str) -> dict[str, object]:
    """What it prints under an isolated Python."""
    run = subprocess.run(
        [sys.executable, "-I", "-S", PROBE], env={"PATH": path, **environment}, capture_output=True, text=True, check=True, timeout=60
    )
    return dict(json.loads(run.stdout.splitlines()[-1]))


def test_a_machine_without_anything(tmp_path: Path) -> None:
    """Every fact is null, and the reader copes."""
    facts = probed(str(tmp_path))
    assert facts == {
        "gpu": None,
        "triton_release": None,
        "tensorrt_llm": None,
        "tensorrt": None,
        "help": {"trtllm-build": None, "quantize.py": None, "convert_checkpoint.py": None},
        "config": None,
    }
    assert Facts.parse(json.dumps(facts)).origin == Origin("", "", "", "")


def test_a_machine_with_a_gpu(tmp_path: Path) -> None:
    """nvidia-smi is asked for exactly these fields, and programs for their help."""
    for name, script in {"nvidia-smi": SMI, "trtllm-build": "#!/bin/sh\necho usage: $1"}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    facts = probed(f"{tmp_path}:{os.environ['PATH']}", NVIDIA_TRITON_SERVER_VERSION="26.07")
    assert facts["gpu"] == {"name": "NVIDIA L4", "compute_cap": "8.9", "driver_version": "590.48.01", "memory.total": "23034 MiB"}
    assert facts["triton_release"] == "26.07"
    assert dict(facts["help"])["trtllm-build"] == "usage: --help\n"  # type: ignore[call-overload]
