"""One process of a stack: in a group of its own, with its output in a log, gone when its parent is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from keyahead.engine.tether import tethered
from keyahead.stack.guard import kill_group
from keyahead.stack.policy import Rules

_LOG_TAIL_BYTES = 4000
_GIST_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Program:
    """A process to run and keep running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """All of it."""
    rules: Rules
    is_ready: Callable[[], bool]
    """Whether it can do its work; asked often and quick to answer."""
    needs_its_children: bool = False
    """Whether it is of no use once a child that it had when ready has ended."""
    niceness: int = 0
    """How far it steps back for others that want the processor, 0 to 19."""
    after_end: Callable[[], None] | None = None
    """Called when it has ended, however that came, to remove what it may have left."""


class Groups(Protocol):
    """Somebody who must know which process groups live."""

    def started(self, group: int) -> None:
        """A group has started."""

    def ended(self, group: int) -> None:
        """A group has ended."""


class Process:
    """A running program."""

    def __init__(self, program: Program, log: Path, groups: Groups) -> None:
        """Start it; its output is added to `log`."""
        self.program = program
        self.log = log
        self._groups = groups
        self._children: list[psutil.Process] = []
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                tethered(*program.command),
                env=program.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops its children in order
            )
        if program.niceness:
            _step_back(self.pid, program.niceness)
        groups.started(self.pid)

    @property
    def pid(self) -> int:
        """Also its group's."""
        return self._popen.pid

    def note_children(self) -> None:
        """It is ready: from now on its children are watched, if it needs them."""
        if self.program.needs_its_children:
            self._children = psutil.Process(self.pid).children(recursive=True)

    def is_broken(self) -> bool:
        """Whether a child that it needs has ended."""
        return any(not _lives(child) for child in self._children)

    def ending(self) -> str | None:
        """How it ended, once it has; what is left of its group is then killed."""
        code = self._popen.poll()
        if code is None:
            return None
        kill_group(self.pid)
        self._groups.ended(self.pid)
        if self.program.after_end:
            self.program.after_end()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    def terminate(self) -> None:
        """Ask it to end."""
        self._popen.terminate()

    def kill(self) -> None:
        """End it and its children at once."""
        kill_group(self.pid)

    def last_words(self) -> str:
        """The end of its log, on one line."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][-_GIST_CHARACTERS:] if lines else "its log is empty"


def _step_back(session: int, niceness: int) -> None:
    """Let others have the processor first. Where Linux weighs sessions (autogroup), niceness counts only within one: it has its own."""
    with contextlib.suppress(OSError):  # It may have ended already, and not every kernel knows autogroups.
        os.setpriority(os.PRIO_PROCESS, session, niceness)
        Path(f"/proc/{session}/autogroup").write_text(str(niceness))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
