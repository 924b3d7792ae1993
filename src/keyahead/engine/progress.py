"""How long steps of the set-up tell the user where they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich import progress as bars
from rich.console import Console
from rich.filesize import decimal

Advance = Callable[[int], None]


class Progress(Protocol):
    """Somebody who watches the set-up."""

    def step(self, title: str, total_bytes: int | None) -> AbstractContextManager[Advance]:
        """Announce a step of so many bytes (None: not known); call what it gives with each number of bytes done."""

    def note(self, line: str) -> None:
        """Say one thing that is worth knowing, such as a source that did not answer."""


class SilentProgress:
    """Nobody watches."""

    @contextmanager
    def step(self, title: str, total_bytes: int | None) -> Iterator[Advance]:  # noqa: ARG002 - the interface's names
        """Say nothing."""
        yield lambda _: None

    def note(self, line: str) -> None:
        """Say nothing."""


class RichProgress:
    """A bar with size, speed and remaining time on a terminal; elsewhere one line per step and one per tenth of it.

    Writes to standard error, so that standard output stays free for results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    def step(self, title: str, total_bytes: int | None) -> AbstractContextManager[Advance]:
        """Announce a step of so many bytes (None: not known); call what it gives with each number of bytes done."""
        return self._bar(title, total_bytes) if self._console.is_terminal else self._lines(title, total_bytes)

    def note(self, line: str) -> None:
        """Print the line."""
        self._print(line)

    @contextmanager
    def _bar(self, title: str, total_bytes: int | None) -> Iterator[Advance]:
        title_column = bars.TextColumn("{task.description}", markup=False)
        sized = (bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn()) if total_bytes else ()
        columns = (bars.SpinnerColumn(), title_column, bars.BarColumn(), bars.TimeElapsedColumn(), *sized)
        with bars.Progress(*columns, console=self._console) as live:
            task = live.add_task(title, total=total_bytes)
            yield lambda count: live.advance(task, count)
            live.update(task, total=total_bytes or 1, completed=total_bytes or 1)

    @contextmanager
    def _lines(self, title: str, total_bytes: int | None) -> Iterator[Advance]:
        started = time.monotonic()
        done = tenth = 0
        self._print(f"{title} ({decimal(total_bytes)})" if total_bytes else title)

        def advance(count: int) -> None:
            nonlocal done, tenth
            done += count
            if total_bytes and tenth < (now := min(10 * done // total_bytes, 9)):
                tenth = now
                speed = done / max(time.monotonic() - started, 1e-3)
                self._print(f"{title}: {10 * tenth} % of {decimal(total_bytes)}, {decimal(int(speed))}/s")

        yield advance
        self._print(f"{title}: done in {time.monotonic() - started:.1f} s")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
