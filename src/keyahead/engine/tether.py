"""Runs a program that must not outlive its parent: python tether.py PARENT PROGRAM ARGUMENT…

Linux kills the program when the thread that started it ends, however that ends (prctl(2), PR_SET_PDEATHSIG; the wish survives execve). A
pre-exec function could ask for the same, but is not safe in a process with gRPC's threads. Only the standard library is imported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def tethered(*command: str) -> list[str]:
    """The command, so that it ends with this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _main(parent: int, command: list[str]) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() == parent:  # otherwise it has ended already
        os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
