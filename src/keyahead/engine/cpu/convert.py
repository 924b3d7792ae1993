"""From published weights to the OpenVINO model the CPU engine runs, once per user, without PyTorch.

Three phases, each leaving a whole result in a work folder so that an interruption repeats only the one it struck:
the GGUF file as F16 (OpenVINO's reader refuses Q5_0), the OpenVINO model built from it, and its weights in INT8.
The last two run in child processes: they block for half a minute, and their memory must go back to the system.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.filesize import decimal

from keyahead.engine import tokenizer
from keyahead.engine.catalogue import Engine, Model
from keyahead.engine.gguf_file import Header, read_header, write_f16
from keyahead.engine.store import (
    Progress,
    SetupError,
    atomic_file,
    atomic_folder,
    cache_dir,
    disk_errors,
    growth,
    locked,
    require_free_space,
)
from keyahead.engine.tether import tethered

_MANIFEST = "manifest.json"
_PACKAGES = ("openvino", "openvino-genai", "openvino-tokenizers", "nncf", "gguf")
_SETTINGS = {"weights": "int8_asym, per output channel, embeddings and output included", "format": 1}
# F16 twice at once (GGUF and OpenVINO), then OpenVINO's F16 and INT8: four bytes a parameter, and the tokenizer.
_DISK_BYTES_PER_PARAMETER = 4.2
_MEMORY_BYTES_PER_PARAMETER = 8.0  # peak of the second phase, measured on the default model: 4.9 GB for 630 million parameters


def folder_of(model: Model) -> Path:
    """Where the converted model is kept, there or not; another source, version or setting is another folder."""
    key = hashlib.sha256(json.dumps(_origin(model), sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "openvino" / f"{model.name}-{key}"


def find(model: Model) -> Path | None:
    """The converted model, if it is there and no file of it is missing or short; then its weights need not be fetched."""
    folder = folder_of(model)
    try:
        sizes: dict[str, int] = json.loads((folder / _MANIFEST).read_bytes())["files"]
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return None
    return folder if whole else None


def convert(model: Model, gguf: Path, progress: Progress) -> Path:
    """The folder with the converted model, tokenizers and manifest.json; made from `gguf` unless it is there.

    One process converts at a time. Raises SetupError if the model is not for the CPU, or disk or memory do not suffice.
    """
    if Engine.CPU not in model.engines:
        raise SetupError(f"{model.name} runs on GPUs only: choose a model whose engines include cpu.")
    if found := find(model):
        return found
    folder = folder_of(model)
    with locked(folder, f"the CPU model of {model.name}", progress), disk_errors(folder):
        if find(model) is None:
            _convert(model, gguf, folder, progress)
    return folder


def _origin(model: Model) -> dict[str, object]:
    return {
        "model": model.name,
        "source_sha256": model.sha256,
        "versions": {package: version(package) for package in _PACKAGES},
        "settings": _SETTINGS,
    }


def _write_manifest(model: Model, folder: Path) -> None:
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps(_origin(model) | {"files": files}, indent=2) + "\n", encoding="utf-8")


def _convert(model: Model, gguf: Path, folder: Path, progress: Progress) -> None:
    header = read_header(gguf)
    if (architecture := header.metadata.get("general.architecture")) != model.architecture:
        raise SetupError(f"{gguf} holds a {architecture} model but {model.name} is {model.architecture}: pass the right file.")
    work = folder.with_name(folder.name + ".work")
    _require_resources(model, header, work)
    work.mkdir(parents=True, exist_ok=True)
    built = _build(gguf, header, work, progress)
    with atomic_folder(folder) as result:
        _run_phase("compress", (built, result), f"Compressing {model.name} to INT8", header.parameters, progress)
        for name in ("openvino_tokenizer", "openvino_detokenizer"):
            for suffix in (".xml", ".bin"):
                shutil.copy(built / (name + suffix), result)
        tokenizer.write(header.metadata, result)
        _write_manifest(model, result)
    shutil.rmtree(work)


def _build(gguf: Path, header: Header, work: Path, progress: Progress) -> Path:
    built, f16 = work / "built", work / "f16.gguf"
    if built.exists():
        return built
    f16_bytes = 2 * header.parameters
    if not f16.exists():
        with atomic_file(f16) as temporary, progress.step(f"Unpacking {gguf.name} to F16", f16_bytes) as advance:
            write_f16(gguf, temporary, advance)
    with atomic_folder(built) as result:
        (result / f16.name).symlink_to(f16)  # the reader saves its model beside the file it reads
        _run_phase("build", (result / f16.name, result), "Building the OpenVINO model", f16_bytes, progress)
        (result / f16.name).unlink()
    f16.unlink()
    return built


def _require_resources(model: Model, header: Header, work: Path) -> None:
    require_free_space(work, int(header.parameters * _DISK_BYTES_PER_PARAMETER), f"Converting {model.name} for the CPU")
    needed, free = int(header.parameters * _MEMORY_BYTES_PER_PARAMETER), psutil.virtual_memory().available
    if free < needed:
        raise SetupError(
            f"Converting {model.name} for the CPU needs {decimal(needed)} of memory but {decimal(free)} are free: "
            "close other programs, or convert on a larger machine and copy the cache folder."
        )


def _run_phase(phase: str, paths: tuple[Path, Path], title: str, size_bytes: int, progress: Progress) -> None:
    """Run one phase of this module from a path to a folder in a child process, whose output is shown only if it fails."""
    command = tethered(sys.executable, "-P", "-m", __name__, phase, *map(str, paths))
    with progress.step(title, size_bytes) as advance, growth(paths[1], advance):
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if run.returncode == -signal.SIGKILL:
        raise SetupError(f"{title} was killed, most likely for want of memory: close other programs and run the command again.")
    if os.strerror(errno.ENOSPC) in run.stdout:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[1]))
    if run.returncode:
        gist = (run.stdout.strip().splitlines() or ["no message"])[-1][:300]
        raise SetupError(f"{title} failed ({gist}): run the command again, and report it if it fails again.")


def _build_phase(f16: str, _folder: str) -> None:
    import openvino_genai  # noqa: PLC0415 - only in the child

    openvino_genai.LLMPipeline(f16, "CPU", enable_save_ov_model=True)


def _compress_phase(built: str, folder: str) -> None:
    import nncf  # noqa: PLC0415 - only in the child
    import openvino  # noqa: PLC0415 - only in the child

    model = openvino.Core().read_model(Path(built) / "openvino_model.xml")
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(compressed, Path(folder) / "openvino_model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    # Importing openvino or nncf would report the use to their makers; without this module they do not.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    {"build": _build_phase, "compress": _compress_phase}[sys.argv[1]](*sys.argv[2:])
