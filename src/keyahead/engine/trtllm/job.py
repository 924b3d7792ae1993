"""An engine built in the container itself, where nobody can start another: what it needs, and a script that runs the plan there.

This is for a cluster. Nothing is probed and no manifest written, as on a host with Docker: the image is pinned, TensorRT-LLM's version is
compared, and TensorRT refuses to load an engine that was built on another type of GPU.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from keyahead.engine import tokenizer
from keyahead.engine.store import atomic_file, atomic_folder
from keyahead.engine.trtllm import calibration
from keyahead.engine.trtllm.build import PRE_TOKENIZER, require_checkpoint
from keyahead.engine.trtllm.image import TRTLLM_VERSION
from keyahead.engine.trtllm.plan import CALIBRATION_DIR, CHECKPOINT_DIR, ENGINE_DIR, MODEL_DIR, Plan
from keyahead.engine.trtllm.repository import write_engine

SCRIPT, WHOLE = "build.sh", "whole"
"""The script, and the file that it leaves when the engine is whole."""

_SCRIPT = """#!/bin/sh
# Written by keyahead.engine.trtllm.job for {name}: builds the engine unless it is there.
set -eu
[ ! -e {whole} ] || exit 0
found=$(python3 -c 'from importlib.metadata import version; print(version("tensorrt_llm"))')
[ "$found" = {version} ] || {{ echo "This is TensorRT-LLM $found, and the plan is for {version}: use the pinned image." >&2; exit 1; }}
rm -rf {checkpoint} {engine}
# trtllm-build leaves its timing cache where it is started.
cd "${{TMPDIR:-/tmp}}"
{commands}
: > {whole}
"""


def prepare(plan: Plan, source: Path, folder: Path, code: Path | None) -> None:
    """Fill `folder` with the tokenizer, the calibration set, Triton's repository and the script; what is there is kept.

    Script and repository name `source` and `folder` as they are here, so the container has to see both in the same places. The tokenizer
    is in `model/`, where the CPU engine's model would be. Raises SetupError if `source` is not the plan's checkpoint.
    """
    require_checkpoint(plan, source)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        with atomic_folder(folder / "model") as target:
            tokenizer.write_published(source, PRE_TOKENIZER, target)
    if plan.proposal.precision.needs_calibration and not (folder / "calibration").exists():
        calibration.write(folder / "calibration", code)
    write_engine(folder / "repository", plan, str(folder / "engine"))
    with atomic_file(folder / SCRIPT) as temporary:
        temporary.write_text(_script(plan, source, folder))


def _script(plan: Plan, source: Path, folder: Path) -> str:
    checkpoint, engine, whole = (str(folder / name) for name in ("checkpoint", "engine", WHOLE))
    places = {MODEL_DIR: str(source), CALIBRATION_DIR: str(folder / "calibration"), CHECKPOINT_DIR: checkpoint, ENGINE_DIR: engine}

    def here(command: Sequence[str]) -> str:
        return shlex.join(places.get(word, word) for word in command)

    return _SCRIPT.format(
        name=plan.name,
        version=TRTLLM_VERSION,
        checkpoint=shlex.quote(checkpoint),
        engine=shlex.quote(engine),
        whole=shlex.quote(whole),
        commands=f"{here(plan.checkpoint_command)}\n{here(plan.build_command)}",
    )
