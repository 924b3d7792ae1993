"""Repetition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.trim.repetition import first_period, repeated_group, same_line


@given(head=st.text("xyz ", max_size=8), words=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True))
def test_endless_line_ends(head: str, words: list[str]) -> None:
    """A line that goes round in circles ends within its first two rounds."""
    one_round = ", ".join(words) + ", "
    cut = first_period(head + one_round * 40)
    assert cut is not None
    assert cut <= len(head) + 2 * len(one_round)


@pytest.mark.parametrize("line", ["", "x = (a + b) * (c + d)", "0, 0, 0, 0, 0, 0, 0, 0", "# " + "-" * 78, "\\x00\\x01\\x02\\x03\\x04\\x05"])
def test_ordinary_line_goes_on(line: str) -> None:
    """Rulers, short rows of zeros and usual code are no loops."""
    assert first_period(line) is None


@pytest.mark.parametrize(
    ("lines", "repeated"),
    [
        (["a()"] * 2, None),
        (["a()"] * 3, 2),
        (["a()", "b()"] * 2, None),
        (["a()", "b()"] * 3, 4),
        (["a()", "b()", "c()"] * 2, 3),
        (["x", "a()", "a()", "a()"], 2),
        (["    }", "  }", "}"], None),
        (["0, 0,"] * 5, None),
    ],
)
def test_repeated_group(lines: list[str], repeated: int | None) -> None:
    """Short groups may come twice, long ones once; lines without letters as often as they like."""
    assert repeated_group(lines) == repeated


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("return  x", "return x", True),
        ("return x", "return y", False),
        ("const width = Math.abs(a.x - b.x);", "const width = Math.abs(a.x - c.x);", True),
        ("const dx = Math.abs(a.x - b.x);", "const dy = Math.abs(a.y - b.y);", False),
        ("", "return x", False),
    ],
)
def test_same_line(one: str, other: str, *, same: bool) -> None:
    """Blanks do not count, and one edit in thirty characters does not either."""
    assert same_line(one, other) is same


@given(line=st.text("ab", min_size=60, max_size=89), place=st.integers(0, 59), edits=st.integers(0, 2))
def test_few_edits_are_the_same(line: str, place: int, edits: int) -> None:
    """Up to one character in thirty may be replaced or left out anywhere."""
    assert same_line(line[:place] + "c" * edits + line[place + edits :], line)
    assert same_line(line[:place] + line[place + edits :], line)
