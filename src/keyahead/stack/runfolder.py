"""The private folder of one running stack: sockets, logs, Triton's repository; gone when the stack is."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keyahead.engine.store import disk_errors
from keyahead.stack import guard

_PREFIX = "keyahead-"
_LOCK = "lock"


class RunFolder:
    """A folder that a guard removes, with the processes told to it, once this process has ended."""

    def __init__(self, path: Path, watcher: subprocess.Popen[str]) -> None:
        self.path = path
        self._guard = watcher

    @property
    def shm_prefix(self) -> str:
        """What the names of the stack's shared memory begin with."""
        return self.path.name

    def started(self, group: int) -> None:
        """Tell the guard of a process group."""
        self._tell(f"+{group}\n")

    def ended(self, group: int) -> None:
        """Tell the guard that a group is no more."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Remove the folder and the stack's shared memory; all processes must have ended."""
        with suppress(BrokenPipeError):
            self._guard.communicate()
        guard.remove_traces(self.path)  # the guard has done so, unless somebody killed it

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None  # noqa: S101 - opened as a pipe
        with suppress(BrokenPipeError):  # somebody killed it: then we clean up alone
            self._guard.stdin.write(line)
            self._guard.stdin.flush()


@contextmanager
def run_folder() -> Iterator[RunFolder]:
    """Make a folder for the body, after removing those of stacks that were killed together with their guards. Raises SetupError."""
    base = Path(tempfile.gettempdir())  # and not the cache: a socket's path must be short
    _sweep(base)
    with disk_errors(base):
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = RunFolder(path, _start_guard(path))
    try:
        yield folder
    finally:
        folder.close()
        os.close(lock)


def _start_guard(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-S", guard.__file__, str(path)]
    # A session of its own, so that neither Ctrl-C nor the terminal's end reaches it.
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


def _sweep(base: Path) -> None:
    for path in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if path.stat().st_uid == os.getuid() and not _is_held(path / _LOCK):
                guard.remove_traces(path)


def _is_held(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
