"""Where completions hang, and which of them fits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.cache.anchors import CANDIDATES, LINE_CHARS, LOOKUP_PLACES, Candidate, add, best, locate
from keyahead.cache.interface import Entry, Scope

SCOPE = Scope("acme", "0123456789ab", "1", "single_line")
CODE = st.text(alphabet="ab (\n\r\u2028é", max_size=60)


def entry(text: str) -> Entry:
    return Entry(text, "stop", 1, (len(text),))


def lines(first: int, last: int) -> str:
    return "".join(f"line_{n} = {n}\n" for n in range(first, last))


@given(CODE, CODE, st.text(alphabet="abc é", max_size=40), st.integers(0, LOOKUP_PLACES - 1))
def test_typing_on_keeps_the_place_in_view(prefix: str, suffix: str, text: str, newlines: int) -> None:
    """A place is among those looked at after any typing that ends fewer lines than a look-up goes back, and it sees all that was typed."""
    then = next(locate(SCOPE, prefix, suffix))
    typed = "\n".join([text] * (newlines + 1))
    assert any(place.anchor == then.anchor and place.since == then.since + typed for place in locate(SCOPE, prefix + typed, suffix))


@given(st.lists(st.integers(0, 3 * LINE_CHARS), max_size=4))
def test_places_are_small_even_in_huge_lines(lengths: list[int]) -> None:
    """No place holds more of its line than the limit, the places are distinct, and each reaches from a line start to the cursor."""
    prefix = "\n".join("x" * length for length in lengths)
    sizes = [len(place.since) for place in locate(SCOPE, prefix, "")]
    assert sizes[0] < LINE_CHARS
    assert all(0 < further - nearer <= LINE_CHARS for nearer, further in pairwise(sizes))


@pytest.mark.parametrize(
    ("prefix", "same"),
    [
        pytest.param(lines(90, 100) + lines(0, 30) + "x = ", True, id="lines far above changed"),
        pytest.param(lines(13, 30) + "x = ", True, id="lines far above deleted"),
        pytest.param(lines(0, 29) + "line_29 = 30\nx = ", False, id="line above changed"),
        pytest.param(lines(0, 30) + "\nx = ", False, id="line above added"),
    ],
)
def test_edits_above(prefix: str, same: bool) -> None:
    """Edits far above leave the place where it is; edits just above do not."""
    assert (next(locate(SCOPE, prefix, "")) == next(locate(SCOPE, lines(0, 30) + "x = ", ""))) is same


@pytest.mark.parametrize(
    ("suffix", "same"),
    [
        pytest.param(")\n\n    return 1\n\nfar below\n", True, id="third line changed"),
        pytest.param(")\n\n    return 1", True, id="all below deleted"),
        pytest.param(")\n\n    return 1  \r\n", True, id="spaces at the line end"),
        pytest.param(")\n\n    return 2\n\nclass Next:\n", False, id="next line changed"),
        pytest.param("\n\n    return 1\n\nclass Next:\n", False, id="rest of the line changed"),
        pytest.param("", False, id="nothing below"),
    ],
)
def test_edits_below(suffix: str, same: bool) -> None:
    """Edits below the next line with anything on it leave the place where it is; nearer ones do not."""
    then = next(locate(SCOPE, "x = f(", ")\n\n    return 1\n\nclass Next:\n"))
    assert (next(locate(SCOPE, "x = f(", suffix)) == then) is same


@given(CODE, CODE.filter(bool), CODE)
def test_what_fits_continues_what_is_typed(line: str, text: str, since: str) -> None:
    """A candidate fits exactly when the line was reached and its completion begins with what has been typed and goes on."""
    typed = Candidate(line, entry(text)).typed(since)
    fits = len(line) <= len(since) < len(line + text) and (line + text).startswith(since)
    assert typed == (len(since) - len(line) if fits else None)
    assert typed is None or line + text == since + entry(text).after(typed).text


def test_deleted_text_is_not_offered_again() -> None:
    """A candidate does not fit before the position it was asked at, though its line and text begin with what is there."""
    assert Candidate("value", entry(" = 1")).typed("val") is None


def test_exact_comes_before_newer_and_newer_before_older() -> None:
    """Among the candidates of a place the one asked exactly here wins, then the newest."""
    place = next(locate(SCOPE, "x = f", ""))
    old, exact, new = Candidate("x", entry(" = f(1)")), Candidate("x = f", entry("(2)")), Candidate("x =", entry(" f(3)"))
    assert (found := best(place, [new, exact, old]))
    assert found.candidate == exact
    assert (found := best(place, [new, old]))
    assert found.remainder().text == "(3)"
    assert best(place, [Candidate("y", entry(" = f"))]) is None


def test_a_place_keeps_the_newest_once_each() -> None:
    """Adding puts a candidate first, drops its double, and drops the oldest when there are too many."""
    candidates: tuple[Candidate, ...] = ()
    many = [Candidate("x", entry(str(n))) for n in range(CANDIDATES + 2)]
    for candidate in [*many, many[-2]]:
        candidates = add(candidates, candidate)
    assert candidates[:2] == (many[-2], many[-1])
    assert len(candidates) == len(set(candidates)) == CANDIDATES
