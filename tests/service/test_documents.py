"""A document edited by position is what splitting and joining its lines would make of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.documents import DELETED_CHARS, Change, Document, Lost, OutOfSync, Position
from keyahead.service.positions import Encoding

PIECES = st.text(st.sampled_from("ab\r\n\té値😀"), max_size=12)
LINE_END = re.compile(r"\r\n|\r|\n")


def document(text: str = "", cursor: int = 0, version: int = 1, encoding: Encoding = Encoding.UTF32, max_bytes: int = 1 << 20) -> Document:
    """A document with some text."""
    return Document(text, cursor, version, encoding, max_bytes)


def position(text: str, offset: int, encoding: Encoding) -> Position:
    """Where an offset is, by the naive way."""
    before = LINE_END.split(text[:offset])
    codec, width, _ = encoding.value
    return Position(len(before) - 1, len(before[-1].encode(codec)) // width)


def places(text: str) -> list[int]:
    """Offsets that have a position: all but those inside a CRLF."""
    return [at for at in range(len(text) + 1) if text[max(0, at - 1) : at + 1] != "\r\n"]


def insert(line: int, character: int, text: str) -> Change:
    """A change that only inserts."""
    return Change(Position(line, character), Position(line, character), text)


@given(text=PIECES, data=st.data(), encoding=st.sampled_from(Encoding))
def test_edits_by_position_are_the_edits_of_the_text(text: str, data: st.DataObject, encoding: Encoding) -> None:
    """Whatever is replaced, CR and LF torn apart or joined included: text, size, lines and cursor agree with a model that starts anew."""
    edited = document(text, encoding=encoding)
    for version in range(1, data.draw(st.integers(1, 6)) + 1):
        start, end = sorted((data.draw(st.sampled_from(places(text))), data.draw(st.sampled_from(places(text)))))
        new = data.draw(PIECES)
        change = Change(position(text, start, encoding), position(text, end, encoding), new)
        splices = edited.edit(version, version + 1, [change], None)
        rebuilt = text
        for splice in splices:
            assert rebuilt[splice.at :].startswith(splice.removed)
            rebuilt = rebuilt[: splice.at] + splice.text + rebuilt[splice.at + len(splice.removed) :]
        text = text[:start] + new + text[end:]
        assert edited.text == rebuilt == text
        assert edited.num_bytes == len(text.encode())
        assert edited.cursor == start + len(new)
        assert list(edited._starts) == [0, *(match.end() for match in LINE_END.finditer(text))]
        at = data.draw(st.sampled_from(places(text)))
        edited.move(position(text, at, encoding))
        assert edited.cursor == at
        assert edited.line_of(at) == position(text, at, encoding).line


@given(old=PIECES, new=PIECES)
def test_a_splice_is_only_what_changed(old: str, new: str) -> None:
    """A client that sends a whole line for one more character has typed one character."""
    splices = document(old).edit(1, 2, [Change(Position(0, 0), position(old, len(old), Encoding.UTF32), new)], None)
    if old == new:
        assert splices == ()
    else:
        (splice,) = splices
        assert not splice.removed or not splice.text or splice.removed[0] != splice.text[0]
        assert old[: splice.at] == new[: splice.at]


def test_changes_are_made_in_order() -> None:
    """Each position is one of the text that the changes before it left."""
    edited = document("one\ntwo")
    edited.edit(1, 9, [insert(0, 0, "zero\n"), insert(2, 3, "!")], Position(1, 1))
    assert (edited.text, edited.version, edited.cursor) == ("zero\none\ntwo!", 9, 6)


@pytest.mark.parametrize("base", [0, 2, 7])
def test_an_edit_of_another_version_is_refused(base: int) -> None:
    """One that was lost, came twice, or came out of order: the text stays as it is."""
    edited = document("a")
    with pytest.raises(OutOfSync) as caught:
        edited.edit(base, base + 1, [insert(0, 0, "b")], None)
    assert caught.value.reason is Lost.VERSION
    assert edited.text == "a"


@pytest.mark.parametrize(
    ("change", "cursor"),
    [
        (insert(2, 0, ""), None),
        (insert(0, 3, ""), None),
        (insert(1, 1, ""), None),
        (Change(Position(0, 2), Position(0, 0), ""), None),
        (insert(0, 0, ""), Position(0, 3)),
    ],
    ids=["line", "character", "inside a character", "backwards", "cursor"],
)
def test_a_position_that_the_text_lacks_is_refused(change: Change, cursor: Position | None) -> None:
    """It shows that the client has another text."""
    with pytest.raises(OutOfSync) as caught:
        document("ab\n😀", encoding=Encoding.UTF16).edit(1, 2, [change], cursor)
    assert caught.value.reason is Lost.POSITION


def test_a_text_that_grows_too_long_is_refused() -> None:
    """The limit is in UTF-8 bytes, and what is replaced makes room."""
    edited = document("aa", max_bytes=4)
    edited.edit(1, 2, [Change(Position(0, 0), Position(0, 1), "値")], None)
    with pytest.raises(OutOfSync) as caught:
        edited.edit(2, 3, [insert(0, 0, "a")], None)
    assert caught.value.reason is Lost.SIZE


@pytest.mark.parametrize("at", [Position(0, 999), Position(1, 0)], ids=["far in a line", "many"])
def test_an_edit_that_costs_too_much_is_refused(at: Position) -> None:
    """A change alone never does, wherever it is; the text stays as it is, and the client is asked for the whole of it."""
    edited = document("a" * 999 + "\n", max_bytes=1000)
    edited.edit(1, 2, [insert(0, 999, "")], None)
    with pytest.raises(OutOfSync) as caught:
        edited.edit(2, 3, [insert(at.line, at.character, "")] * 256, None)
    assert (caught.value.reason, edited.version) == (Lost.SIZE, 2)


def test_deleting_on_in_one_direction_is_one_deletion() -> None:
    """Backspace by backspace, or delete by delete; another place begins another."""
    edited = document("abcdef ghi")
    for version, (start, end) in enumerate([(5, 6), (4, 5), (3, 4), (0, 1), (0, 1)], start=1):
        edited.edit(version, version + 1, [Change(Position(0, start), Position(0, end), "")], None)
    assert edited.text == "c ghi"
    assert edited.deleted == ("def", "ab")


@given(lengths=st.lists(st.integers(1, 1500), max_size=6))
def test_deleted_text_is_bounded_and_the_newest_is_kept(lengths: list[int]) -> None:
    """In all at most 2048 characters, the end of everything deleted."""
    edited = document("x")
    everything = ""
    for index, length in enumerate(lengths):
        text = chr(ord("a") + index) * length
        version = edited.version
        edited.edit(version, version + 1, [insert(0, index % 2, text)], None)
        edited.edit(version + 1, version + 2, [Change(Position(0, index % 2), Position(0, index % 2 + length), "")], None)
        everything += text
    assert "".join(edited.deleted) == everything[-DELETED_CHARS:]
