"""`keyahead watch`: ghost text in the terminal while a file changes, whatever editor changes it.

With `--json` it prints one object for each suggestion: those of `keyahead complete`, and `line` and `column` (from 1) of the cursor.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text
from watchfiles import watch as watch_changes

from keyahead.cli.client import DEFAULT_ADDRESS, AddressOption, Client, ServiceError
from keyahead.cli.complete import MODES, ModeChoice, ModeOption, Place, printable, read_text, summary, to_json, with_ghost
from keyahead.cli.output import JsonOption, Output, UsageError
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service.documents import common_beginning

_TIMEOUT_S = 5.0
"""When to give a call up; the service's own budget for typing is far shorter."""
_SETTLE_MS, _SETTLE_AT_MOST_MS = 20, 100
"""A save is over when nothing has changed for the first; under constant change the file is read every second."""
_LOOK_EVERY_MS = 1000
"""The file is also read this often, for file systems that do not tell of changes."""
_LINES_AROUND = 8

Ticket = int
Event = tuple[Ticket, "pb.CompleteResponse | ServiceError"] | None
"""An answer to the question with this ticket, or None: the file may have changed."""


class Session:
    """What is known of the file and which answer is awaited. The newest change wins: answers to older ones are dropped."""

    def __init__(self, text: str) -> None:
        self.place = Place(text, len(text))
        self.answer: pb.CompleteResponse | None = None
        self.trouble = ""
        """Why the file cannot be read just now; it may come back."""
        self._status = "waiting for a change"
        self._ticket: Ticket = 0
        self._service_away = False

    @property
    def status(self) -> str:
        """One line on what is going on."""
        return self.trouble or self._status

    def change(self, text: str) -> Ticket | None:
        """Takes the file's text; gives the ticket of the question to ask, or None when there is no new one.

        A question that found no service is asked again.
        """
        self.trouble = ""
        if text != self.place.text:
            self.place = Place(text, cursor_after(self.place.text, text))
            self.answer, self._status = None, "asking"
        elif not self._service_away:
            return None
        self._service_away = False
        self._ticket += 1
        return self._ticket

    def take(self, ticket: Ticket, answer: pb.CompleteResponse | ServiceError) -> bool:
        """Takes an answer; whether it was the one awaited."""
        if ticket != self._ticket:
            return False
        if isinstance(answer, ServiceError):
            self._status, self._service_away = str(answer), answer.code is grpc.StatusCode.UNAVAILABLE
        else:
            self.answer, self._status = answer, summary(answer)
        return True


def watch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to watch; it must exist.")],
    address: AddressOption = DEFAULT_ADDRESS,
    mode: ModeOption = ModeChoice.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Show ghost text in the terminal while a file changes, at the end of what has changed; Ctrl-C ends it.

    With --json: one object for each suggestion, as of `keyahead complete`, with its line and column.
    """
    session = Session(read_text(file))
    name = f"watch-{secrets.token_hex(8)}"
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def ask(ticket: Ticket) -> None:
        split = pb.SplitText(prefix=session.place.prefix, suffix=session.place.suffix)
        request = pb.CompleteRequest(document=pb.Document(path=str(file), split=split), mode=MODES[mode], session_id=name)
        client.start(request, _TIMEOUT_S, lambda answer: events.put((ticket, answer)))

    with Client(address) as client, _watching(file, events), _screen(Output(as_json), file) as show:
        show(session)
        try:
            _follow(session, file, events, ask, show)
        except KeyboardInterrupt:
            return


def _follow(
    session: Session,
    file: Path,
    events: queue.SimpleQueue[Event],
    ask: Callable[[Ticket], None],
    show: Callable[[Session], None],
) -> None:
    """Turns events into questions and pictures until interrupted."""
    while True:
        event, before = events.get(), session.status
        if event is not None:
            news = session.take(*event)
        else:
            _look(session, file, ask)
            news = session.status != before
        if news:
            show(session)


def _look(session: Session, file: Path, ask: Callable[[Ticket], None]) -> None:
    """Reads the file, and asks if it has changed."""
    try:
        ticket = session.change(read_text(file))
    except UsageError as error:
        session.trouble = str(error)
    else:
        if ticket is not None:
            ask(ticket)


def cursor_after(old: str, new: str) -> int:
    """Where the cursor probably stands after an edit: the end of the changed region, in characters.

    Repeated text leaves a choice (which of the two `=` in `==` was typed?): then the last place at the end of a line, else the last place.
    A file's last line end counts as the file's, not as typed.
    """
    old, new = old.removesuffix("\n"), new.removesuffix("\n")
    earliest = len(new) - common_beginning(old[::-1], new[::-1])
    latest = max(earliest, common_beginning(old, new) + max(0, len(new) - len(old)))
    line_end = new.rfind("\n", earliest, latest + 1)
    return latest if line_end < 0 or latest == len(new) else line_end


@contextmanager
def _watching(file: Path, events: queue.SimpleQueue[Event]) -> Iterator[None]:
    """Puts None among the events whenever the file may have changed. Watches the folder, so that replacing the file does not blind it."""
    target = file.resolve()
    stop = threading.Event()

    def run() -> None:
        for _ in watch_changes(
            target.parent,
            watch_filter=lambda _, path: Path(path).name == target.name,
            debounce=_SETTLE_AT_MOST_MS,
            step=_SETTLE_MS,
            stop_event=stop,
            rust_timeout=_LOOK_EVERY_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        ):
            events.put(None)

    thread = threading.Thread(target=run, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _screen(output: Output, file: Path) -> Iterator[Callable[[Session], None]]:
    """How a session is shown: a panel that is redrawn, or with `--json` one object for each suggestion."""
    if output.as_json:
        yield _json_printer(output)
    elif not output.console.is_terminal:
        yield lambda session: output.console.print(picture(session, str(file)))
    else:
        with Live(console=output.console, auto_refresh=False) as live:
            yield lambda session: live.update(picture(session, str(file)), refresh=True)


def _json_printer(output: Output) -> Callable[[Session], None]:
    """Prints each suggestion once, and the rest of what is going on to standard error."""
    printed: pb.CompleteResponse | None = None

    def show(session: Session) -> None:
        nonlocal printed
        if session.answer is None or session.answer is printed:
            output.console.print(session.status)
            return
        printed = session.answer
        line, column = _line_and_column(session.place)
        output.emit({**to_json(session.answer), "line": line, "column": column})

    return show


def picture(session: Session, name: str) -> RenderableType:
    """The lines around the cursor with the ghost text, and below them where it came from, how long it took, or what is amiss."""
    place = session.place
    line, column = _line_and_column(place)
    above = place.prefix.split("\n")[-1 - _LINES_AROUND : -1]
    below = place.suffix.split("\n")[1 : 1 + _LINES_AROUND]
    cursor = with_ghost(place, session.answer.text if session.answer else "")
    lines = [*(Text(printable(each)) for each in above), cursor, *(Text(printable(each.removesuffix("\r"))) for each in below)]
    return Group(Panel(Group(*lines), title=Text(f"{name}:{line}:{column}")), Text(session.status, style="dim"))


def _line_and_column(place: Place) -> tuple[int, int]:
    """The cursor as people count it, from 1."""
    return place.prefix.count("\n") + 1, place.offset - place.prefix.rfind("\n")
