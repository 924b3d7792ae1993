"""The nouns of the cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyahead.cache import Entry


def test_remainder_counts_the_tokens_not_wholly_typed() -> None:
    """A token typed to its end is gone; one typed in part still counts and ends at its new offset."""
    entry = Entry("return value", "stop", 3, (6, 8, 12))
    assert entry.after(6) == Entry(" value", "stop", 2, (2, 6))
    assert entry.after(7) == Entry("value", "stop", 2, (1, 5))


def test_nothing_typed_leaves_the_entry_as_it_was() -> None:
    """A first token without text of its own, as token healing may give, is kept in an exact hit."""
    entry = Entry("ab", "length", 2, (0, 2))
    assert entry.after(0) == entry


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_remainders_add_up(tokens: list[str], data: st.DataObject) -> None:
    """Typing in two goes leaves what typing in one go leaves, and the last offset is always the end of the text."""
    ends = tuple(len("".join(tokens[: n + 1])) for n in range(len(tokens)))
    entry = Entry("".join(tokens), "stop", len(tokens), ends)
    both = data.draw(st.integers(0, len(entry.text) - 1))
    first = data.draw(st.integers(0, both))
    rest = entry.after(first).after(both - first)
    assert rest == entry.after(both)
    assert rest.token_ends[-1] == len(rest.text)
    assert rest.completion_tokens == len(rest.token_ends)
