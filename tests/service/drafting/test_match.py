"""The longest end of one text in another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.drafting.match import LONGEST, Match, longest_match

few = st.text("ab\n", max_size=90)


@given(few, few, st.integers(1, 6))
def test_it_is_what_trying_every_length_finds(tail: str, text: str, shortest: int) -> None:
    """Bisection misses nothing, and of several occurrences the last is taken."""
    lengths = [length for length in range(shortest, min(len(tail), LONGEST) + 1) if tail[-length:] in text]
    expected = Match(lengths[-1], text.rfind(tail[-lengths[-1] :]) + lengths[-1]) if lengths else None
    assert longest_match(tail, text, shortest) == expected
