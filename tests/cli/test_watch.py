"""`keyahead watch`: where the cursor is, which answer counts, and the command as a process on a real file."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from keyahead.cli.client import ServiceError
from keyahead.cli.watch import Session, cursor_after, picture
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb

if TYPE_CHECKING:
    from tests.cli.conftest import ScriptedService

TEXTS = st.text(alphabet="ab\n", max_size=12)


@pytest.mark.parametrize(
    ("old", "new_with_cursor"),
    [
        ("", "import|"),
        ("x = 1\n", "x = 1\nfoo|\n"),
        ("x = 1\n", "x = 1\n|\n"),
        ("a\nb\n", "a\n|\nb\n"),
        ("x =\ny\n", "x ==|\ny\n"),
        ("f(b)\n", "f(a, |b)\n"),
        ("f()\n", "f(a|)\n"),
        ("abcdef\n", "ab|ef\n"),
        ("abc\n", "|\n"),
        ("a = 1\nb = 2\nc = 3\n", "a = 9\nb = 2\nc = 9|\n"),
        ("no end", "no end of line|"),
    ],
)
def test_the_cursor_is_where_a_person_left_it(old: str, new_with_cursor: str) -> None:
    """Edits as they are made, with the cursor as a bar."""
    cursor = new_with_cursor.index("|")
    assert cursor_after(old, new_with_cursor.replace("|", "")) == cursor


@given(TEXTS, TEXTS)
def test_the_text_behind_the_cursor_is_unchanged(old: str, new: str) -> None:
    """Whatever the edit, the cursor is in the text and what follows it was there before."""
    cursor = cursor_after(old, new)
    assert 0 <= cursor <= len(new)
    assert old.removesuffix("\n").endswith(new.removesuffix("\n")[cursor:])


@given(TEXTS, TEXTS, TEXTS)
def test_an_insertion_ends_at_the_cursor(before: str, inserted: str, after: str) -> None:
    """After an insertion, the text before the cursor ends with something of its length that, taken out, gives the old text."""
    old, new = before + after + "\n", before + inserted + after + "\n"
    cursor = cursor_after(old, new)
    assert new[: cursor - len(inserted)] + new[cursor:] == old


def answer(text: str) -> pb.CompleteResponse:
    """An answer with this text."""
    return pb.CompleteResponse(text=text, source=pb.SOURCE_ENGINE, finish_reason=pb.FINISH_REASON_STOP)


def test_only_the_newest_answer_counts() -> None:
    """Answers to older texts are dropped, whichever order they come in; the same text asks nothing."""
    session = Session("a")
    first, second = session.change("ab"), session.change("abc")
    assert first is not None
    assert second is not None
    assert session.change("abc") is None
    assert not session.take(first, answer("old"))
    assert session.answer is None
    assert session.take(second, answer("new"))
    assert not session.take(first, answer("old"))
    assert session.answer is not None
    assert session.answer.text == "new"


@pytest.mark.parametrize(("code", "again"), [(grpc.StatusCode.UNAVAILABLE, True), (grpc.StatusCode.INVALID_ARGUMENT, False)])
def test_a_failure_is_shown_until_there_is_an_answer(code: grpc.StatusCode, again: bool) -> None:
    """Nobody there: the same text is asked about again, once per look; refused: only a change asks again."""
    session = Session("a")
    ticket = session.change("ab")
    assert ticket is not None
    session.take(ticket, ServiceError("No luck.", code))
    assert session.status == "No luck."
    assert (session.change("ab") is not None) is again
    assert session.status == "No luck."
    assert session.change("ab") is None
    assert session.change("abc") is not None
    assert session.status == "asking"


def test_the_picture_has_the_lines_around_and_the_ghost_text() -> None:
    """Eight lines on each side, the suggestion in its place, and where the cursor is."""
    session = Session("".join(f"line {number}\n" for number in range(30)))
    ticket = session.change(session.place.text.replace("line 15", "line 15 = f("))
    assert ticket is not None
    session.take(ticket, answer("x)"))
    console = Console(file=io.StringIO(), width=60)
    console.print(picture(session, "f.py"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "f.py:16:13" in shown
    assert "line 15 = f(x)" in shown
    assert [f"line {number} " in shown for number in (6, 7, 23, 24)] == [False, True, True, False]
    assert "engine · 0 ms" in shown


class Watcher:
    """The command as a process, and the objects it prints."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lines: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        for name in ("stdout", "stderr"):
            threading.Thread(target=self._read, args=(name,), daemon=True).start()

    def _read(self, name: str) -> None:
        stream = getattr(self.process, name)
        for line in stream:
            self._lines.put((name, line))

    def suggestion(self) -> dict[str, Any]:
        """The next object on standard output."""
        found: dict[str, Any] = json.loads(self._next("stdout"))
        return found

    def status(self, words: str) -> None:
        """Waits for these words on standard error."""
        while words not in self._next("stderr"):
            pass

    def _next(self, name: str) -> str:
        while True:
            source, line = self._lines.get(timeout=20)
            if source == name:
                return line.decode()


@contextmanager
def watching(service: ScriptedService, file: Path) -> Iterator[Watcher]:
    """`keyahead watch --json FILE` while the block lasts; Ctrl-C must end it at once, with exit code 0."""
    command = [sys.executable, "-c", "from keyahead.cli.main import app; app()", "watch", str(file), "--json", "--address", service.address]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        try:
            watcher = Watcher(process)
            watcher.status("waiting for a change")
            yield watcher
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to watch."""
    path = tmp_path / "app.py"
    path.write_text("x = 1\n")
    return path


def test_changes_bring_suggestions(service: ScriptedService, file: Path) -> None:
    """Writing in place and replacing by rename both do; the request has the cursor and always the same session."""
    service.answers(lambda request: request.document.split.prefix[-3:].upper())
    with watching(service, file) as watcher:
        file.write_text("x = 1\nabc\n")
        found = watcher.suggestion()
        assert (found["text"], found["line"], found["column"], found["source"]) == ("ABC", 2, 4, "in_flight")
        for text in ("x = 1\nabc\ndef\n", "x = 1\nabc\ndef\nghi\n"):
            file.with_name("new").write_text(text)
            file.with_name("new").rename(file)
            assert watcher.suggestion()["text"] == text[-4:-1].upper()
    assert len({request.session_id for request in service.requests}) == 1
    assert service.requests[0].session_id
    assert service.requests[0].document.split.suffix == "\n"


def test_it_survives_deletion_and_bytes_that_are_no_text(service: ScriptedService, file: Path) -> None:
    """Both are said; once the file is back and has changed, there is a suggestion."""
    with watching(service, file) as watcher:
        file.unlink()
        watcher.status("There is no file")
        file.write_bytes(b"\xff")
        watcher.status("not UTF-8")
        file.write_text("x = 1\ny\n")
        assert watcher.suggestion()["line"] == 2


def test_it_survives_a_restart_of_the_service(service: ScriptedService, file: Path) -> None:
    """While the service is away that is said; once it is back there is a suggestion without another change."""
    with watching(service, file) as watcher:
        service.stop()
        file.write_text("x = 1\ny\n")
        watcher.status("No service answers")
        service.start()
        assert watcher.suggestion()["line"] == 2


def test_a_slow_answer_to_an_old_text_is_dropped(service: ScriptedService, file: Path) -> None:
    """The newer text's answer is the only one that is shown, also when the older one comes after it."""
    newer_answered = threading.Event()

    def text(request: pb.CompleteRequest) -> str:
        if request.document.split.prefix.endswith("old"):
            newer_answered.wait(20)
            return "late"
        return "right"

    service.answers(text)
    with watching(service, file) as watcher:
        file.write_text("x = 1\nold\n")
        watcher.status("asking")
        file.write_text("x = 1\nold new\n")
        assert watcher.suggestion()["text"] == "right"
        newer_answered.set()
        file.write_text("x = 1\nold new newer\n")
        assert watcher.suggestion()["text"] == "right"
