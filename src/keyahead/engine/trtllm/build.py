"""Building an engine: each phase in the pinned container, whole or not at all, and a manifest of what was made from what.

The results lie in a folder that is named after the plan: `tokenizer/`, for the service, `calibration/`, `checkpoint/`, `engine/`, a log of
each phase, `manifest.json`. A phase whose folder is there is not run again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from keyahead.engine import tokenizer
from keyahead.engine.store import Progress, SetupError, atomic_file, atomic_folder, disk_errors, growth, locked, require_free_space
from keyahead.engine.trtllm import calibration
from keyahead.engine.trtllm.facts import MOUNTS, PROBE_COMMAND, Facts, Origin
from keyahead.engine.trtllm.image import TAG
from keyahead.engine.trtllm.plan import CALIBRATION_DIR, CHECKPOINT_DIR, ENGINE_DIR, MODEL_DIR, Plan
from keyahead.engine.trtllm.preflight import compare

Run = Callable[[Sequence[str], Path], None]
"""Runs a command of the host, its output going to a file; SetupError if it fails."""

MANIFEST = "manifest.json"
PRE_TOKENIZER = "qwen2"
"""Of every network that can be planned for."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One command in the container that fills one folder."""

    name: str
    command: tuple[str, ...]
    inputs: Mapping[Path, str]
    target: str
    """Where the container sees the folder."""


def phases(plan: Plan, source: Path, folder: Path) -> tuple[Phase, ...]:
    """What is run in the container, in order."""
    inputs = {source: f"{MODEL_DIR}:ro"}
    if plan.proposal.precision.needs_calibration:
        inputs[folder / "calibration"] = f"{CALIBRATION_DIR}:ro"
    checkpoint = Phase("checkpoint", plan.checkpoint_command, inputs, CHECKPOINT_DIR)
    if not plan.build_command:
        return (checkpoint,)
    return checkpoint, Phase("engine", plan.build_command, {folder / "checkpoint": f"{CHECKPOINT_DIR}:ro"}, ENGINE_DIR)


def commands(plan: Plan, source: Path, folder: Path) -> list[list[str]]:
    """Exactly what `build` runs on the host; a phase's own folder has a temporary name until it is whole."""
    return [
        plan.image.run(PROBE_COMMAND, MOUNTS),
        *(plan.image.run(each.command, {**each.inputs, folder / each.name: each.target}) for each in phases(plan, source, folder)),
    ]


def build(plan: Plan, source: Path, work: Path, run: Run, progress: Progress, *, code: Path | None = None) -> Path:
    """The folder with the engine, built unless it is there.

    Args:
        plan: what to build.
        source: the Hugging Face checkpoint, a folder.
        work: where folders of plans lie.
        run: starts a docker command.
        progress: who watches.
        code: what to calibrate with, a folder; by default Python's standard library.

    Raises SetupError when a phase fails, GPU or container are not what the plan assumes, or the folder holds an engine of another GPU,
    version or source.

    """
    require_checkpoint(plan, source)
    folder = work.absolute() / plan.name
    make_folder(folder)
    with locked(folder, plan.name, progress):
        facts = inspect(plan, folder, run, progress)
        require_gpu(plan, facts)
        manifest = begin(plan, source, folder, facts.origin, progress)
        require_container(plan, facts)
        if not (folder / "tokenizer").exists():
            with atomic_folder(folder / "tokenizer") as target:
                tokenizer.write_published(source, PRE_TOKENIZER, target)
        if plan.proposal.precision.needs_calibration and not (folder / "calibration").exists():
            with progress.step("Collecting code to calibrate with", None):
                calibration.write(folder / "calibration", code)
        for phase in phases(plan, source, folder):
            if not (folder / phase.name).exists():
                manifest["phases"][phase.name] = _run(plan, phase, folder, run, progress)
                write_manifest(folder, manifest)
        manifest["engine"] = digests(folder / plan.served, progress)
        write_manifest(folder, manifest)
    return folder


def require_checkpoint(plan: Plan, source: Path) -> None:
    """Raise a SetupError unless `source` is a checkpoint of the plan's model."""
    try:
        found = json.loads((source / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise SetupError(f"{source} is no Hugging Face checkpoint (config.json: {error}): pass the model's folder.") from error
    if differences := plan.proposal.network.differences(found):
        raise SetupError(f"{source} is not {plan.proposal.network.name} ({'; '.join(differences)}): pass that model's folder.")


def inspect(plan: Plan, folder: Path, run: Run, progress: Progress, command: Sequence[str] = PROBE_COMMAND) -> Facts:
    """What the container and the GPU are."""
    log = folder / "probe.log"
    with progress.step("Looking at the container and the GPU", None):
        run(plan.image.run(command, MOUNTS), log)
    return Facts.parse(log.read_text(errors="replace"))


def require_gpu(plan: Plan, facts: Facts) -> None:
    """Raise a SetupError unless the GPU here is the plan's."""
    gpu, here = plan.proposal.gpu, facts.origin
    if not gpu.is_called(here.gpu) or gpu.compute_capability != here.compute_capability:
        found = f"{here.gpu} with compute capability {here.compute_capability}" if here.gpu else "none that the container sees"
        raise SetupError(
            f"The plan is for {gpu.name}, and the GPU here is {found}: plan for this GPU, or build on the one that will serve."
        )


def require_container(plan: Plan, facts: Facts) -> None:
    """Raise a SetupError unless the container is the plan's: building takes long, and what comes of it would not pass its preflight."""
    if wrong := [f"{each.what}: {each.detail}" for each in compare(plan, facts) if each.fatal and not each.ok]:
        raise SetupError(f"The container is not what the plan assumes ({'; '.join(wrong)}): use the tag {TAG}, and no option it lacks.")


def make_folder(folder: Path) -> None:
    """Make it unless it is there; SetupError if that cannot be."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a built engine; SetupError if there is none."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise SetupError(f"{folder} holds no engine: run 'keyahead engine build' with the same options first.") from error
    return manifest


def require_origin(manifest: Mapping[str, Any], here: Origin, folder: Path) -> None:
    """Raise a SetupError unless the engine was built for this GPU and these versions."""
    if differences := Origin(**manifest["origin"]).differences(here):
        raise SetupError(f"The engine in {folder} cannot run here ({'; '.join(differences)}): build it anew in another --work folder.")


def digests(folder: Path, progress: Progress) -> dict[str, str]:
    """SHA-256 of each file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {}
    with progress.step(f"Hashing {folder.name}", sum(path.stat().st_size for path in files)) as advance:
        for path in files:
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
            advance(path.stat().st_size)
    return found


def begin(plan: Plan, source: Path, folder: Path, origin: Origin, progress: Progress) -> dict[str, Any]:
    """The manifest, written unless it is there. SetupError if it was begun for another plan, GPU or version, or from other weights."""
    if not (folder / MANIFEST).exists():
        begun = {"keyahead": version("keyahead"), "plan": plan.to_json(), "origin": asdict(origin)}
        begun |= {"source": digests(source, progress), "phases": {}}
        write_manifest(folder, begun)
        return begun
    require_same_plan(plan, folder)
    manifest = read_manifest(folder)
    require_origin(manifest, origin, folder)
    if manifest["source"] != digests(source, progress):
        raise SetupError(f"{folder} was begun from other weights than {source}: remove it, or use another --work folder.")
    return manifest


def require_same_plan(plan: Plan, folder: Path) -> None:
    """Raise a SetupError if `folder` was begun for another plan."""
    if (folder / MANIFEST).exists() and (name := read_manifest(folder)["plan"]["name"]) != plan.name:
        raise SetupError(f"{folder} was begun for {name}, and the plan is {plan.name}: remove it, or use another --work folder.")


def _run(plan: Plan, phase: Phase, folder: Path, run: Run, progress: Progress) -> dict[str, object]:
    expected = int(plan.memory.weights)
    require_free_space(folder, expected, f"The {phase.name} of {plan.name}")
    with atomic_folder(folder / phase.name) as target:
        command = plan.image.run(phase.command, {**phase.inputs, target: phase.target})
        started = time.monotonic()
        with progress.step(f"Making the {phase.name} in the container", expected) as advance, growth(target, advance):
            run(command, folder / f"{phase.name}.log")
    return {"command": command, "seconds": round(time.monotonic() - started, 1)}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    with atomic_file(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")
