"""Characters and line ends, counted as editors do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.positions import BadPosition, Encoding, characters, line_ends, line_text_end, utf8_bytes

TEXTS = st.text(st.sampled_from("ab\r\n\té値😀"), max_size=30)
LINES = st.text(st.sampled_from("ab\té値😀"), max_size=20)


@given(text=TEXTS)
def test_line_ends_are_those_of_lsp(text: str) -> None:
    """LF, CRLF and CR, marked at their last character; without them the lines are what splitting leaves."""
    ends = [index for index, marked in enumerate(line_ends(text)) if marked]
    assert ends == [match.end() - 1 for match in re.finditer(r"\r\n|\r|\n", text)]
    starts = [0, *(end + 1 for end in ends)]
    lines = [text[start : line_text_end(text, start, end)] for start, end in zip(starts, [*ends, len(text)], strict=True)]
    assert lines == re.split(r"\r\n|\r|\n", text)


@given(line=LINES, encoding=st.sampled_from(Encoding))
def test_every_offset_is_a_character_or_an_error(line: str, encoding: Encoding) -> None:
    """Offsets between characters count them; those inside of one, or behind the line, are refused."""
    codec, width, _ = encoding.value
    known = {len(line[:count].encode(codec)) // width: count for count in range(len(line) + 1)}
    for offset in range(max(known) + 2):
        if offset in known:
            assert characters(line, offset, encoding) == known[offset]
        else:
            with pytest.raises(BadPosition) as caught:
                characters(line, offset, encoding)
            assert caught.value.part == "character"


@given(text=TEXTS)
def test_sizes_are_those_of_utf8(text: str) -> None:
    """Also where counting needs no encoding."""
    assert utf8_bytes(text) == len(text.encode())
