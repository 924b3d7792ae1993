"""An engine made where nobody can start containers, as in a cluster: the steps of `build`, each in the image that can do it.

`prepare` writes down all that is needed, the container's Python runs the probe, `check` judges what it found, the container runs the
script, and `check` again finishes the manifest. All of them find each other's files in one folder.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from keyahead.engine import tokenizer
from keyahead.engine.contract import MODEL_NAME
from keyahead.engine.store import Progress, SetupError, atomic_file, atomic_folder
from keyahead.engine.trtllm import build, calibration
from keyahead.engine.trtllm.facts import PROBE, Facts
from keyahead.engine.trtllm.image import Image
from keyahead.engine.trtllm.plan import CALIBRATION_DIR, CHECKPOINT_DIR, ENGINE_DIR, MODEL_DIR, Plan
from keyahead.engine.trtllm.precision import KvCache, Precision
from keyahead.engine.trtllm.preflight import problems
from keyahead.engine.trtllm.proposal import Limits, Runtime
from keyahead.engine.trtllm.repository import write_repository

PLAN, PROBE_LOG, SCRIPT = "plan.json", "probe.log", "build.sh"
"""What is planned, what the probe printed, and what is to be run."""
BUILT, WHOLE = "built", "whole"
"""The script's last word, and the last check's; Triton waits for the latter."""

_SCRIPT = """#!/bin/sh
# Written by keyahead.engine.trtllm.job for {name}: makes what is served unless it is there.
set -eu
[ ! -e {built} ] || exit 0
rm -rf {checkpoint} {engine}
# trtllm-build leaves its timing cache where it is started; a copy wants its folder to be there.
mkdir -p {checkpoint}
cd "${{TMPDIR:-/tmp}}"
{commands}
: > {built}
"""


def prepare(plan: Plan, source: Path, folder: Path, code: Path | None) -> None:
    """Fill `folder` with the tokenizer, the calibration set, Triton's repository, the probe, plan and script; what is there is kept.

    They name `source` and `folder` as they are here, so the container has to see both in the same places. The tokenizer is in `model/`,
    where the CPU engine's model would be. Raises SetupError if `source` is not the plan's checkpoint, or `folder` was begun for another
    plan.
    """
    build.require_checkpoint(plan, source)
    build.require_same_plan(plan, folder)
    build.make_folder(folder)
    if not (folder / "model").exists():
        with atomic_folder(folder / "model") as target:
            tokenizer.write_published(source, build.PRE_TOKENIZER, target)
    if plan.proposal.precision.needs_calibration and not (folder / "calibration").exists():
        calibration.write(folder / "calibration", code)
    write_repository(folder / "repository", plan, str(folder / plan.served))
    shutil.copyfile(PROBE, folder / PROBE.name)
    for name, text in {PLAN: _write_plan(plan, source), SCRIPT: _script(plan, source, folder)}.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text)


def read_plan(folder: Path) -> tuple[Plan, Path]:
    """The plan that was prepared, and its checkpoint. SetupError if there is none."""
    try:
        asked = json.loads((folder / PLAN).read_text())
    except (OSError, ValueError) as error:
        raise SetupError(f"{folder} has no plan: run 'keyahead engine prepare' with the same --work first.") from error
    plan = Plan.make(
        asked["model"],
        asked["gpu"],
        Precision(asked["precision"]),
        Limits(**asked["limits"]),
        kv_cache=KvCache(asked["kv_cache"]),
        licence_accepted=asked["licence_accepted"],
        build=asked["build"],
        serving=asked["serving"],
        image=Image(**asked["image"]),
        runtime=Runtime(asked["runtime"]),
    )
    return plan, Path(asked["source"])


def inspect(plan: Plan, source: Path, folder: Path, progress: Progress) -> Facts:
    """What the probe found, with the manifest begun.

    Raises SetupError if it found another GPU than the plan's, or the folder was begun on another GPU, version or checkpoint.
    """
    build.require_checkpoint(plan, source)
    try:
        printed = (folder / PROBE_LOG).read_text(errors="replace")
    except OSError as error:
        raise SetupError(f"{folder / PROBE_LOG} is missing: run {PROBE.name} in the container first, with its output there.") from error
    facts = Facts.parse(printed)
    build.require_gpu(plan, facts)
    build.begin(plan, source, folder, facts.origin, progress)
    return facts


def repository_differences(plan: Plan, folder: Path) -> list[str]:
    """Where Triton's repository is not, byte for byte, the plan's: files, and tensors that were changed by hand, one clause each."""
    with tempfile.TemporaryDirectory() as scratch:
        expected = _contents(write_repository(Path(scratch) / "repository", plan, str(folder / plan.served)))
    found = _contents(folder / "repository")
    files = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    config = found.get(f"{MODEL_NAME}/config.pbtxt", b"").decode(errors="replace")
    return [*files, *(problem for kind in ("input", "output") for problem in problems(config, kind))]


def is_built(folder: Path) -> bool:
    """Whether the script has come to its end."""
    return (folder / BUILT).exists()


def finish(plan: Plan, source: Path, folder: Path, progress: Progress) -> None:
    """Write into the manifest what was made, unless it is there."""
    manifest = build.read_manifest(folder)
    if "engine" not in manifest:
        made = zip(("checkpoint", "engine"), commands(plan, source, folder), strict=False)
        manifest["phases"] = {name: {"command": command} for name, command in made}
        manifest["engine"] = build.digests(folder / plan.served, progress)
        build.write_manifest(folder, manifest)


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _write_plan(plan: Plan, source: Path) -> str:
    proposal = plan.proposal
    asked = {
        "model": proposal.network.name,
        "gpu": proposal.gpu.name,
        "precision": proposal.precision,
        "limits": dataclasses.asdict(proposal.limits),
        "kv_cache": proposal.kv_cache,
        "licence_accepted": proposal.licence_accepted,
        "build": dict(proposal.build),
        "serving": dict(proposal.serving),
        "image": dataclasses.asdict(plan.image),
        "runtime": proposal.runtime,
        "source": str(source),
    }
    return json.dumps(asked, indent=2) + "\n"


def commands(plan: Plan, source: Path, folder: Path) -> list[list[str]]:
    """What the script runs: the plan's commands, with the places that it sees."""
    checkpoint, engine = str(folder / "checkpoint"), str(folder / "engine")
    places = {f"{MODEL_DIR}/.": f"{source}/.", MODEL_DIR: str(source), CALIBRATION_DIR: str(folder / "calibration")}
    places |= {CHECKPOINT_DIR: checkpoint, ENGINE_DIR: engine}
    planned: list[Sequence[str]] = [plan.checkpoint_command, plan.build_command]
    return [[places.get(word, word) for word in command] for command in planned if command]


def _script(plan: Plan, source: Path, folder: Path) -> str:
    checkpoint, engine, built = (shlex.quote(str(folder / name)) for name in ("checkpoint", "engine", BUILT))
    lines = "\n".join(shlex.join(command) for command in commands(plan, source, folder))
    return _SCRIPT.format(name=plan.name, checkpoint=checkpoint, engine=engine, built=built, commands=lines)
