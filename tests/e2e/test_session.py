"""A typing session against the real stack: a person types thirty keys as edits."""

from __future__ import annotations

import queue
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from tests.e2e.conftest import SOURCE, Running, eventually

HEAD = "def mean(values):\n    return sum(values) / len(values)\n\n\ndef variance(values):\n    "
LINE = "centre = mean(values)\n    return"
KEY_S = 0.15
"""Between keys: a quick typist."""


class Editor:
    """Types into one document of a session and keeps the ghost text as a plugin would."""

    def __init__(self, stack: Running, text: str = HEAD) -> None:
        self._outgoing: queue.Queue[pb.SessionRequest | None] = queue.Queue()
        self.call: Any = stack.stub.Session(iter(self._outgoing.get, None), timeout=120)
        self.replies: list[Any] = []
        self.text = text
        self.version = 1
        self.ghost = ""
        self.ghosts: list[str] = []
        self.wrong: list[str] = []
        self.ended: grpc.StatusCode | None = None
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.open()

    def send(self, **message: Any) -> None:
        """One message."""
        self._outgoing.put(pb.SessionRequest(**message))

    def open(self) -> None:
        """The whole text as it is now, with the cursor at its end."""
        document = pb.Document(path="a.py", split=pb.SplitText(prefix=self.text, suffix="\n"))
        self.send(open=pb.Open(document_id="d", version=self.version, document=document, ask_on_edit=True))

    def type(self, text: str) -> None:
        """Insert at the cursor, as an edit."""
        with self._lock:
            at = pb.Position(line=self.text.count("\n"), character=len(self.text) - self.text.rfind("\n") - 1)
            change = pb.Change(range=pb.Range(start=at, end=at), text=text)
            self.text += text
            self.version += 1
            self.ghost = self.ghost[len(text) :] if self.ghost.startswith(text) else ""
            self.send(edit=pb.Edit(document_id="d", base_version=self.version - 1, version=self.version, changes=[change]))

    def of(self, kind: str) -> list[Any]:
        """The replies of one kind so far."""
        return [getattr(each, kind) for each in list(self.replies) if each.WhichOneof("message") == kind]

    def close(self) -> None:
        """End the stream."""
        self._outgoing.put(None)
        self._reader.join(10)

    def cancel(self) -> None:
        """Break the stream off."""
        self.call.cancel()
        self.close()

    def _read(self) -> None:
        try:
            for reply in self.call:
                with self._lock:
                    self.replies.append(reply)
                    if reply.HasField("suggestion") and reply.suggestion.version == self.version:
                        self.ghost = reply.suggestion.completion.text
                        self.ghosts.append(self.ghost)
        except grpc.RpcError:
            pass
        self.ended = self.call.code()


@pytest.fixture
def editor(stack: Running) -> Iterator[Editor]:
    """An editor with a fresh document."""
    opened = Editor(stack)
    yield opened
    opened.cancel()


def test_thirty_keys_bring_suggestions(stack: Running, editor: Editor) -> None:
    """Typing what is suggested keeps it, without a request for each key; the model knows the function above."""
    assert eventually(lambda: b"keyahead_sessions 1.0" in urllib.request.urlopen(stack.metrics, timeout=5).read(), 10)
    page = urllib.request.urlopen(stack.metrics, timeout=5).read().decode()
    asked_before = _sum(page, 'keyahead_request_seconds_count{method="Session"')
    for key in LINE[:30]:
        editor.type(key)
        time.sleep(KEY_S)
    assert eventually(lambda: any(editor.ghosts), 20)
    assert not editor.of("resync")
    assert not editor.of("failure")
    page = urllib.request.urlopen(stack.metrics, timeout=5).read().decode()
    assert _sum(page, 'keyahead_request_seconds_count{method="Session"') - asked_before >= 1
    assert all(suggestion.suggested_debounce_ms <= 400 for suggestion in editor.of("suggestion"))


def test_what_is_suggested_fits_the_text_after_the_whole_line(editor: Editor) -> None:
    """A pause brings the whole suggestion; typing through it says nothing until it is used up."""
    editor.type("centre = me")
    whole = {pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH}
    assert eventually(lambda: any(each.completion.finish_reason in whole for each in editor.of("suggestion")), 20)
    assert editor.ghost.startswith("an(values)")
    num_suggestions = len(editor.of("suggestion"))
    for key in "an(val":
        editor.type(key)
    time.sleep(0.5)
    assert len(editor.of("suggestion")) == num_suggestions
    assert not editor.of("withdraw")
    assert editor.ghost.startswith("ues)")
    editor.type("!")
    assert eventually(lambda: bool(editor.of("withdraw")), 5)


def test_a_reordered_edit_is_resynchronised(editor: Editor) -> None:
    """Resync names the version the server has; with Open the session goes on."""
    editor.type("c")
    editor.send(edit=pb.Edit(document_id="d", base_version=7, version=8))
    assert eventually(lambda: bool(editor.of("resync")), 5)
    (resync,) = editor.of("resync")
    assert (resync.expected_version, resync.reason) == (2, pb.RESYNC_REASON_VERSION)
    editor.open()
    editor.type("entre = me")
    assert eventually(lambda: editor.ghost.startswith("an("), 20)


def test_opening_warms_the_engine_for_the_first_request(stack: Running) -> None:
    """A cold file is read before the first key: that key computes a few tokens and not the whole prompt."""
    time.sleep(1.5)  # The engine's page is a second behind: earlier tests are on it now.
    finished = stack.engine_counter("keyahead_engine_finished_total")
    before = _prefilled(stack)
    editor = Editor(stack, SOURCE[20_000:21_500])
    assert eventually(lambda: stack.engine_counter("keyahead_engine_finished_total") > finished, 30)
    whole = _prefilled(stack) - before
    assert whole > 200
    editor.type("\n")
    assert eventually(lambda: bool(editor.of("suggestion")), 10)
    time.sleep(1.5)
    assert _prefilled(stack) - before - whole < whole / 2
    editor.cancel()


def test_a_stream_broken_off_frees_the_engine(stack: Running) -> None:
    """In mid-prefill; hardly a token more is computed: seen on the engine's own counters."""
    cancelled, after = "keyahead_engine_cancelled_total", "keyahead_engine_tokens_after_cancel_total"
    before = stack.engine_counter(cancelled), stack.engine_counter(after)
    for turn in range(3):
        editor = Editor(stack, SOURCE[30_000 + 300 * turn : 32_000 + 300 * turn])
        editor.type("x")
        time.sleep(0.3)
        editor.cancel()
        assert editor.ended is grpc.StatusCode.CANCELLED
    assert eventually(lambda: stack.engine_counter(cancelled) - before[0] >= 3, 5)
    # At most one chunk, the one that was running, for each sequence: the warming one and the asked one.
    assert stack.engine_counter(after) - before[1] <= 6 * 64


def _prefilled(stack: Running) -> float:
    """Prompt tokens computed by the engine."""
    page = urllib.request.urlopen(stack.triton_metrics, timeout=5).read().decode()
    return _sum(page, "keyahead_engine_tokens_total{", '"prefill"')


def _sum(page: str, begins: str, holds: str = "") -> float:
    """The sum of a family's samples on a Prometheus page."""
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(begins) and holds in line)
