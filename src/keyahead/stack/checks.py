"""What `keyahead doctor` looks at: each check is one function that says what it found, how bad that is, and the cure."""

from __future__ import annotations

import enum
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from rich.filesize import decimal

from keyahead.engine.catalogue import Model
from keyahead.engine.cpu import convert
from keyahead.engine.fetch import weights_path
from keyahead.engine.store import SetupError, cache_dir
from keyahead.stack import guard, libpython, redis, triton
from keyahead.stack.programs import Ports

_SET_UP = "'make run' or 'keyahead up' gets it"
_PACKAGES = ("openvino", "openvino-genai", "grpcio", "protobuf", "numpy", "tokenizers", "redis")
_MIN_MEMORY_BYTES = 3_000_000_000
"""Triton with the default model takes 2 GB, the service and Redis less than 0.5 GB; the rest is reserve."""
_MIN_DISK_BYTES = 4_000_000_000
"""Weights 0.5 GB, conversion of the default model 2.1 GB, Triton 0.2 GB, and room for a second model's result."""
_MIN_SHM_BYTES = 16_000_000
"""Triton's Python backend takes 1 MB at first, and more for large requests."""


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Works, or the set-up will see to it."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says."""

    level: Level
    detail: str
    """What was found and, unless all is well, the cure."""


Check = Callable[[], Finding]


def checks(model: Model, ports: Ports) -> dict[str, Check]:
    """All checks by what they are about, in the order to show them."""
    return {
        "python": python,
        "packages": packages,
        "libpython": python_library,
        "compiler": compiler,
        "processor": processor,
        "memory": memory,
        "disk": disk,
        "shared memory": shared_memory,
        "ports": lambda: free_ports(ports),
        "redis": redis_server,
        "triton": triton_server,
        "weights": lambda: weights(model),
        "model": lambda: converted(model),
    }


def python() -> Finding:
    """The interpreter."""
    found = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] != (3, 11):
        return Finding(Level.FAIL, f"{found}: Triton's stub and the packages are for 3.11, so make .venv with that")
    return Finding(Level.OK, found)


def packages() -> Finding:
    """The packages whose versions matter most."""
    try:
        return Finding(Level.OK, ", ".join(f"{name} {version(name)}" for name in _PACKAGES))
    except PackageNotFoundError as error:
        return Finding(Level.FAIL, f"{error.name} is not installed: run 'make venv'")


def python_library() -> Finding:
    """The library that Triton's stub needs."""
    path = libpython.find()
    return Finding(Level.OK, str(path)) if path else Finding(Level.NOTE, f"{libpython.NAME} is missing: {_SET_UP}")


def compiler() -> Finding:
    """A C compiler, which nothing needs."""
    return Finding(Level.OK, f"{shutil.which('cc') or 'none'} (not needed: every package is a wheel)")


def processor() -> Finding:
    """The instructions that decide the speed."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    fast = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    found = f"{os.cpu_count()} cores, {' '.join(fast) or 'no AVX2'}"
    return Finding(Level.OK, found) if fast else Finding(Level.NOTE, f"{found}: completions will be slow, so use a newer processor")


def memory() -> Finding:
    """Memory that is free."""
    free = psutil.virtual_memory().available
    found = f"{decimal(free)} available"
    if free < _MIN_MEMORY_BYTES:
        return Finding(Level.FAIL, f"{found}: close other programs until there are {decimal(_MIN_MEMORY_BYTES)}")
    return Finding(Level.OK, found)


def disk() -> Finding:
    """Room where the cache is."""
    place = cache_dir()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{decimal(free)} free in {cache_dir()}"
    if free < _MIN_DISK_BYTES and triton.find() is None:
        return Finding(Level.FAIL, f"{found}: free {decimal(_MIN_DISK_BYTES)}, or point KEYAHEAD_CACHE at a larger disk")
    return Finding(Level.OK, found)


def shared_memory() -> Finding:
    """Room for what Triton and its stub exchange."""
    if not guard.SHARED_MEMORY.is_dir():
        return Finding(Level.FAIL, f"there is no {guard.SHARED_MEMORY}: mount a tmpfs there")
    free = shutil.disk_usage(guard.SHARED_MEMORY).free
    found = f"{decimal(free)} free in {guard.SHARED_MEMORY}"
    if free < _MIN_SHM_BYTES:
        return Finding(Level.FAIL, f"{found}: enlarge it, for example with docker run --shm-size=64m")
    return Finding(Level.OK, found)


def free_ports(ports: Ports) -> Finding:
    """The ports of `keyahead up`, which it may hold itself."""
    try:
        ports.require_free()
    except SetupError as error:
        return Finding(Level.NOTE, f"{error} (Nothing is wrong if keyahead runs.)")
    return Finding(Level.OK, "all free")


def redis_server() -> Finding:
    """A Redis server that runs."""
    program = redis.find()
    if program is None:
        return Finding(Level.NOTE, f"there is no redis-server: {_SET_UP}")
    try:
        return Finding(Level.OK, redis.version(program))
    except SetupError as error:
        return Finding(Level.FAIL, str(error))


def triton_server() -> Finding:
    """Triton: every file as in its wheel, and it starts."""
    found, library = triton.find(), libpython.find()
    if found is None or library is None:
        return Finding(Level.NOTE, f"not in the cache: {_SET_UP}")
    if damaged := found.damaged():
        return Finding(Level.FAIL, f"{len(damaged)} damaged files, such as {damaged[0]}: remove {found.folder}, and {_SET_UP} again")
    environment = {**os.environ, **triton.environment(found, library)}
    for program, greeting in {found.program: "Usage: tritonserver", found.stub: "Expected 9 arguments"}.items():
        said = _said(program, environment)
        if greeting not in said:
            return Finding(Level.FAIL, f"{program.name} does not start ({said[:200]}): it needs x86-64 and a C library of 2.35 or newer")
    return Finding(Level.OK, f"{triton.WHEEL}, undamaged, starts")


def _said(program: Path, environment: dict[str, str]) -> str:
    try:
        run = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return run.stderr


def weights(model: Model) -> Finding:
    """The model's weights, by their hash."""
    path = weights_path(model)
    if not path.exists():
        return Finding(Level.NOTE, f"{model.file} is not in the cache: {_SET_UP}")
    with path.open("rb") as file:
        right = hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
    if not right:
        return Finding(Level.FAIL, f"{path} is damaged: remove it, and {_SET_UP} again")
    return Finding(Level.OK, f"{model.file}, {decimal(path.stat().st_size)}, hash as in the catalogue")


def converted(model: Model) -> Finding:
    """The model as the CPU engine wants it."""
    folder = convert.find(model)
    return Finding(Level.OK, str(folder)) if folder else Finding(Level.NOTE, f"{model.name} is not converted yet: {_SET_UP}")
