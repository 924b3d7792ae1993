"""Runs a stack's programs as the policy says: the thin shell around it that starts, watches, signals and sleeps."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from keyahead.engine.store import SetupError, cache_dir
from keyahead.stack.policy import Action, Effect, Phase, Policy
from keyahead.stack.process import Groups, Process, Program

POLL_S = 0.1
"""How soon an ended process is seen; it has to be within a second."""


class Supervisor:
    """Keeps a stack running until it is told to stop."""

    def __init__(self, programs: Sequence[Program], logs: Path, groups: Groups, report: Callable[[str], None]) -> None:
        """Programs in an order in which each follows those it comes after, a folder for logs, and who is told what happens, a line each."""
        self._programs = {program.name: program for program in programs}
        self._policy = Policy({program.name: program.rules for program in programs})
        self._processes: dict[str, Process] = {}
        self._started_at: dict[str, float] = {}
        self._logs = logs
        self._groups = groups
        self._report = report
        self._stop = False
        self._failure = ""

    def run(self, on_serving: Callable[[], None]) -> None:
        """Start everything, call `on_serving`, and serve until SIGINT, SIGTERM, SIGHUP or `stop`; then stop everything.

        Raises SetupError if a program does not get ready, and what `on_serving` raises.
        """
        served = False
        try:
            with _on_signal(self.stop):
                while not self._stop and not self._policy.failed:
                    self._step()
                    if self._policy.phase is Phase.SERVING and not served:
                        served = True
                        on_serving()
                    time.sleep(POLL_S)
        finally:
            self._stop_all()
        if self._failure:
            raise SetupError(self._failure)

    def stop(self) -> None:
        """Make `run` end."""
        self._stop = True

    def _stop_all(self) -> None:
        # A second signal must not interrupt this; every step has a deadline.
        with _on_signal(self.stop):
            self._policy.stop()
            while self._policy.phase is not Phase.STOPPED:
                self._step()
                time.sleep(POLL_S / 5)

    def _step(self) -> None:
        for name, process in list(self._processes.items()):
            self._watch(name, process)
        for effect in self._policy.tick(time.monotonic()):
            self._do(effect)

    def _watch(self, name: str, process: Process) -> None:
        now = time.monotonic()
        if ending := process.ending():
            del self._processes[name]
            self._ended(process, ending, now)
        elif self._policy.is_ready(name) and process.is_broken():
            self._report(f"{name} has lost a process that it needs and is restarted")
            for effect in self._policy.broken(name, now):
                self._do(effect)
        elif self._policy.is_starting(name) and process.program.is_ready():
            process.note_children()
            self._policy.ready(name, now)
            self._report(f"{name} is ready ({now - self._started_at[name]:.1f} s)")

    def _ended(self, process: Process, ending: str, now: float) -> None:
        name = process.program.name
        was = self._policy.phase
        self._policy.exited(name, now)
        if was is Phase.SERVING:
            self._report(f"{name} has ended ({ending}) and is restarted")
        elif self._policy.failed == name:
            late = f"was not ready within {process.program.rules.start_s:.0f} s"
            self._failure = self._explain(process, late if was is Phase.STOPPING else f"ended before it was ready ({ending})")

    def _explain(self, process: Process, what: str) -> str:
        kept = cache_dir() / "logs" / process.log.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(process.log, kept)
        return f"{process.program.name} {what}; it last said “{process.last_words()}”: see {kept}, mend that, and run the command again."

    def _do(self, effect: Effect) -> None:
        if effect.action is Action.START:
            self._report(f"Starting {effect.name}")
            self._started_at[effect.name] = time.monotonic()
            program = self._programs[effect.name]
            self._processes[effect.name] = Process(program, self._logs / f"{effect.name.lower()}.log", self._groups)
        elif effect.action is Action.TERMINATE:
            self._processes[effect.name].terminate()
        else:
            self._processes[effect.name].kill()


@contextmanager
def _on_signal(call: Callable[[], None]) -> Iterator[None]:
    """Make the signals that end a program call this instead."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: call()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
