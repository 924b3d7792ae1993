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


def probed(path: str, *options: str, **environment: str) -> dict[str, object]:
    """What it prints under an isolated Python."""
    command = [sys.executable, "-I", "-S", str(PROBE), *options]
    run = subprocess.run(command, env={"PATH": path, **environment}, capture_output=True, text=True, check=True, timeout=60)
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
        "llm_api": None,
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
    brief = probed(f"{tmp_path}:{os.environ['PATH']}", "--brief")
    assert brief["gpu"] == facts["gpu"]
    assert dict(brief["help"])["trtllm-build"] is None  # type: ignore[call-overload]


def test_what_the_llm_api_takes(tmp_path: Path) -> None:
    """Fields of its classes, declared in one way or the other, and parameters of its call; a greeting before them does no harm."""
    package = tmp_path / "tensorrt_llm"
    (package / "llmapi").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from dataclasses import dataclass\nprint('a greeting')\n"
        "class LLM:\n    def generate_async(self, inputs, cache_salt=None): ...\n"
        "@dataclass\nclass SamplingParams:\n    end_id: int = 0\n"
    )
    (package / "executor.py").write_text("class CppExecutorError(Exception): ...\n")
    (package / "llmapi" / "__init__.py").write_text(
        "class KvCacheConfig:\n    model_fields = {'dtype': 0}\nclass NGramDecodingConfig:\n    model_fields = {'max_draft_len': 0}\n"
    )
    (package / "llmapi" / "llm_args.py").write_text("class TorchLlmArgs:\n    model_fields = {'model': 0, 'backend': 0}\n")
    (tmp_path / "python3").write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    assert probed(str(tmp_path))["llm_api"] == {
        "TorchLlmArgs": ["backend", "model"],
        "SamplingParams": ["end_id"],
        "KvCacheConfig": ["dtype"],
        "NGramDecodingConfig": ["max_draft_len"],
        "generate_async": ["cache_salt", "inputs", "self"],
    }
