"""The cache folder of a user: where it is, how files get into it whole, and how the user is told about it."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil
from rich.filesize import decimal

from keyahead.engine.progress import Progress, RichProgress, SilentProgress

__all__ = [
    "Progress",
    "RichProgress",
    "SetupError",
    "SilentProgress",
    "atomic_file",
    "atomic_folder",
    "cache_dir",
    "disk_errors",
    "growth",
    "locked",
    "require_free_space",
]

_POLL_S = 0.2
_IN_THE_WAY = "a file stands where a folder should be: move it, or point KEYAHEAD_CACHE elsewhere"
_CURES = {
    errno.ENOSPC: "the disk is full: free some space, or point KEYAHEAD_CACHE at a larger disk",
    errno.EDQUOT: "the disk quota is used up: free some space, or point KEYAHEAD_CACHE elsewhere",
    errno.EACCES: "it is not writable: change its permissions, or point KEYAHEAD_CACHE at a folder of yours",
    errno.EROFS: "the disk is read-only: point KEYAHEAD_CACHE at a folder of yours",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
}


class SetupError(Exception):
    """A failure that the user can cure; the text is one sentence that names the thing and the cure."""


def cache_dir() -> Path:
    """The folder all checkouts of this user share: $KEYAHEAD_CACHE, or keyahead in the XDG cache folder; it may not exist yet."""
    if chosen := os.environ.get("KEYAHEAD_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "keyahead"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk under `path` into a SetupError with its cure; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CURES:
            raise
        raise SetupError(f"Cannot write {path}: {_CURES[error.errno]}.") from error


def require_free_space(path: Path, needed_bytes: int, what: str) -> None:
    """Raise a SetupError unless the disk that `path` is or will be on has `needed_bytes` free for `what`."""
    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise SetupError(
            f"{what} needs {decimal(needed_bytes)} of disk but {place} has only {decimal(free)} free: "
            "free some space, or point KEYAHEAD_CACHE at a larger disk."
        )


@contextmanager
def locked(path: Path, what: str, progress: Progress) -> Iterator[None]:
    """Hold the one lock of an artefact; another process that holds it is waited for, and the user is told whom and why.

    The lock is the kernel's and ends with its process, however that ends; the small lock file stays.
    """
    name = path.with_name(path.name + ".lock")
    with disk_errors(name):
        name.parent.mkdir(parents=True, exist_ok=True)
        file = name.open("a+")
    with file:
        _acquire(file, what, progress)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _acquire(file: IO[str], what: str, progress: Progress) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        with progress.step(f"Waiting for process {holder}, which is already preparing {what}", None):
            fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it takes the place of `path` on success and is removed on failure."""
    with _atomic(path) as temporary:
        yield temporary
        _fsync(temporary)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` to fill; it becomes `path` on success and is removed on failure."""
    with _atomic(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            _fsync(file)
        if path.exists():
            shutil.rmtree(path)


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        try:
            yield temporary
            temporary.replace(path)
            _fsync(path.parent)
        finally:
            _remove(temporary)


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed left unfinished: it can be gigabytes."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        pid = leftover.name.split(".")[-2]
        if pid == str(os.getpid()) or not psutil.pid_exists(int(pid)):
            _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def growth(folder: Path, advance: Callable[[int], None]) -> Iterator[None]:
    """Report how many bytes the files under `folder` gain while the body runs: progress of a tool that tells none."""
    done = threading.Event()

    def watch() -> None:
        seen = 0
        while True:
            ended = done.wait(_POLL_S)
            size = _tree_size(folder)
            if size > seen:
                advance(size - seen)
                seen = size
            if ended:
                return

    thread = threading.Thread(target=watch, name="growth", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tree_size(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # the tool may move its files while we count
                size += Path(parent, name).lstat().st_size
    return size
