"""Cleans up after a stack however it ended: python guard.py FOLDER, with the stack's supervisor at the other end of standard input.

The supervisor tells each process group that starts (+) or has ended (-), a line each. When the pipe ends, since the supervisor has, groups
that are left are killed and what they left behind is removed. Only the standard library is imported, so that the guard is small.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory


def kill_group(group: int, number: int = signal.SIGKILL) -> None:
    """Signal every process of a group, which may have ended."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def remove_shared_memory(prefix: str) -> None:
    """Remove the regions of a stack whose processes have ended."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def remove_traces(folder: Path) -> None:
    """Remove a stack's folder, sockets included, and its shared memory, which has the folder's name."""
    remove_shared_memory(folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def watch(lines: Iterable[str]) -> set[int]:
    """Follow the supervisor to its end; the groups that are left then."""
    groups: set[int] = set()
    for line in lines:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    return groups


if __name__ == "__main__":
    for left in watch(sys.stdin):
        kill_group(left)
    remove_traces(Path(sys.argv[1]))
