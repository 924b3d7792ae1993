"""A plugin's side of a `Session`, against the service's own reading of what it sends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.editor import KEPT, Editor, Heard, Sent
from keyahead.loadtest.judge import Answer, Ask, Failed
from keyahead.loadtest.texts import Passage
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service.documents import Document
from keyahead.service.positions import Encoding
from keyahead.service.requests import Limits
from keyahead.service.session_messages import to_message
from keyahead.service.session_model import Close, Edit, MoveCursor, Open
from tests.loadtest.conftest import passage

PLACE = passage("alpha = 1\nbeta = 2", before="x = 0\n", after="\nz = 9\n")
LIMITS = Limits()


def ask(number: int) -> Ask:
    """A question; only its number matters here."""
    return Ask(number, float(number), PLACE, 0, 0, "")


def type_in(editor: Editor, *writings: str) -> Sent:
    """The person goes to the passage and writes; what the last key led to."""
    editor.act(PLACE, "", None)
    return [editor.act(PLACE, written, ask(number)) for number, written in enumerate(writings)][-1]


def suggestion(version: int, text: str, request_id: str = "r", document_id: str = "1") -> pb.SessionResponse:
    """Of the service."""
    completion = pb.CompleteResponse(request_id=request_id, text=text, source=pb.SOURCE_MEMORY)
    return pb.SessionResponse(suggestion=pb.Suggestion(document_id=document_id, version=version, completion=completion))


def texts(heard: Heard | None) -> tuple[int, str, bool] | None:
    """Which question was answered, with what, and whether for the first time."""
    if heard is None:
        return None
    assert isinstance(heard.answer, Answer)
    return heard.ask.number, heard.answer.text, heard.is_more


@given(st.lists(st.tuples(st.integers(0, 2), st.text("ab\n é漢😀", max_size=4), st.integers(0, 5)), max_size=20))
def test_the_service_has_the_text_that_the_person_has(steps: list[tuple[int, str, int]]) -> None:
    """After any sequence of keys, deletions and jumps, whatever the letters: text, cursor and version."""
    places = [
        PLACE,
        Passage("a.py", "python", "x = 0\n", "gamma", "\nalpha = 1\n"),
        Passage("b.py", "python", "é😀 = '", "x", "'\n"),
    ]
    editor, written, before, document = Editor(), "", -1, Document("", 0, 0, Encoding.UTF32, 1 << 20)
    for place, typed, deleted in steps:
        written = written[: max(0, len(written) - deleted)] + typed if place == before else typed
        before = place
        for wire in editor.act(places[place], written, None).messages:
            match message := to_message(wire, "tenant", LIMITS):
                case Open():
                    text = message.query.prefix + message.query.suffix
                    document = Document(text, len(message.query.prefix), message.version, message.encoding, 1 << 20)
                case Edit():
                    document.edit(message.base_version, message.version, message.changes, message.cursor)
                case MoveCursor():
                    document.expect(message.version)
                    document.move(message.cursor)
                case _:
                    assert isinstance(message, Close)
        assert document.text == places[place].before + written + places[place].after
        assert document.cursor == len(places[place].before + written)


def test_a_file_is_opened_once() -> None:
    """A jump within a file of the same text moves the cursor; another file is opened and the first one closed."""
    editor = Editor()
    [opened] = editor.act(PLACE, "", None).messages
    assert opened.open.ask_on_edit
    editor.act(PLACE, PLACE.typed, ask(0))
    later = Passage(PLACE.path, PLACE.language, PLACE.before + PLACE.typed + PLACE.after[:1], "new", PLACE.after[1:])
    [moved] = editor.act(later, "", None).messages
    assert (moved.move_cursor.document_id, moved.move_cursor.cursor.line) == ("1", 3)
    closed, other = editor.act(Passage("b.py", "python", "", "x", ""), "", None).messages
    assert (closed.close.document_id, other.open.document_id) == ("1", "2")


def test_a_key_that_the_suggestion_begins_with_is_answered_by_it() -> None:
    """Until nothing is left of it, or a key departs from it; those are questions."""
    editor = Editor()
    assert type_in(editor, "a").kept is None
    assert texts(editor.hear(suggestion(2, "lpha"))) == (0, "lpha", False)
    assert editor.act(PLACE, "al", ask(1)).kept == Answer("pha", KEPT)
    assert editor.act(PLACE, "ap", ask(2)).kept is None
    assert texts(editor.hear(suggestion(4, "ples"))) == (2, "ples", False)
    assert editor.act(PLACE, "apples", ask(3)).kept is None


def test_more_of_a_suggestion_comes_by_itself() -> None:
    """It belongs to the question that was answered before."""
    editor = Editor()
    type_in(editor, "a")
    editor.hear(suggestion(2, "lp"))
    assert texts(editor.hear(suggestion(2, "lpha"))) == (0, "lpha", True)


def test_a_late_suggestion_is_worth_what_is_left_of_it() -> None:
    """If what was typed since agrees with it, it answers the newest key; else it is dropped, and so is one for a place that was left."""
    editor = Editor()
    assert type_in(editor, "a", "al").superseded == ask(0)
    assert texts(editor.hear(suggestion(2, "lpha"))) == (1, "pha", False)
    other = Editor()
    type_in(other, "a", "al")
    assert other.hear(suggestion(2, "rray")) is None
    assert other.hear(suggestion(2, "l")) is None
    assert texts(other.hear(suggestion(3, ""))) == (1, "", False)
    other.act(Passage("b.py", "python", "", "x", ""), "", None)
    assert other.hear(suggestion(3, "pha")) is None


def test_what_is_taken_is_accepted_and_what_is_left_behind_rejected() -> None:
    """By the name of the suggestion that is shown; nothing of it counts as kept."""
    editor = Editor()
    type_in(editor, "a")
    editor.hear(suggestion(2, "lpha\n"))
    taken = editor.act(PLACE, "alpha", ask(1), took=True)
    assert (taken.messages[0].accept.request_id, taken.messages[1].edit.changes[0].text, taken.kept) == ("r", "lpha", None)
    editor.hear(suggestion(3, " = 1", "s"))
    rejected, *_ = editor.act(Passage("b.py", "python", "", "x", ""), "", None).messages
    assert rejected.reject.request_id == "s"


def test_failures_end_the_question_and_a_lost_text_is_opened_again() -> None:
    """With the code alone; the key after that asks by name, since opening does not."""
    editor = Editor()
    type_in(editor, "a")
    failed = editor.hear(pb.SessionResponse(failure=pb.Failure(document_id="1", reason="OVERLOADED", message="quiet")))
    assert failed
    assert (failed.ask.number, str(failed.answer)) == (0, "OVERLOADED")
    assert editor.hear(pb.SessionResponse(pacing=pb.Pacing(suggested_debounce_ms=9))) is None
    editor.act(PLACE, "al", ask(1))
    lost = editor.hear(pb.SessionResponse(resync=pb.Resync(document_id="1", reason=pb.RESYNC_REASON_VERSION)))
    assert lost
    assert isinstance(lost.answer, Failed)
    assert str(lost.answer) == "RESYNC_REASON_VERSION"
    opened, asked = editor.act(PLACE, "alp", ask(2)).messages
    assert (opened.open.document.split.prefix, asked.ask.version) == ("x = 0\nalp", opened.open.version)
