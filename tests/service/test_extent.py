"""AUTO shows whole lines, but at least a useful piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.extent import ENOUGH_TOKENS, first_lines, is_whole, num_tokens


def ends_of(tokens: list[str]) -> list[int]:
    """Offsets at which the tokens end."""
    return [len("".join(tokens[: i + 1])) for i in range(len(tokens))]


@pytest.mark.parametrize(
    ("tokens", "want"),
    [
        (["a", " =", " f", "(", "x", ")", "\n", "b"], "a = f(x)"),
        (["):", "\n", "    ", "return", " x", "\n", "y"], "):\n    return x"),
        (["):", "\n", "    ", "return", " x", " +", " 1"], None),
        ([")", "\n"], None),
        (["a", " =", " f", "(", "x", ")\n", "b"], "a = f(x)"),
    ],
)
def test_the_cut_is_at_the_first_line_end_behind_enough(tokens: list[str], want: str | None) -> None:
    """A short rest of a line brings the next line along; a long one stands alone."""
    assert first_lines("".join(tokens), ends_of(tokens)) == want


def test_a_line_whose_end_was_trimmed_off_is_whole() -> None:
    """An unfinished line behind it is cut back, and its line end goes with it; what is cut within a line stays unfinished, as do blanks."""
    assert is_whole("uf):", "uf):\n        print")
    assert is_whole("uf):", "uf): \n")
    assert not is_whole("uf):", "uf): # no")
    assert not is_whole("uf):", "uf):")
    assert not is_whole("", "\n\ndef")


def test_a_whole_line_counts_if_it_has_enough_tokens() -> None:
    """Tokens behind its end do not help it."""
    tokens = ["uf", "):", "\n", "        ", "print", "("]
    assert first_lines("uf):", ends_of(tokens), 1, whole=True) == "uf):"
    assert first_lines("uf):", ends_of(tokens), 1) is None
    assert first_lines("uf):", ends_of(tokens), 6, whole=True) is None


@given(st.lists(st.sampled_from(["a", " ", "\n", "()", "x\n"]), min_size=1, max_size=30))
def test_what_is_cut_is_a_beginning_with_enough_tokens_and_stays_when_more_comes(tokens: list[str]) -> None:
    """Further tokens never change a settled cut."""
    text = "".join(tokens)
    cut = first_lines(text, ends_of(tokens))
    if cut is not None:
        assert text.startswith(cut)
        assert len(tokens) >= ENOUGH_TOKENS
        longer = [*tokens, "more", "\n"]
        assert first_lines("".join(longer), ends_of(longer)) == cut


@given(st.lists(st.sampled_from(["ab", "c", " de"]), min_size=1, max_size=10), st.data())
def test_tokens_of_a_beginning(tokens: list[str], data: st.DataObject) -> None:
    """As many as begin before its end."""
    text = "".join(tokens)
    length = data.draw(st.integers(0, len(text)))
    begins = [0, *ends_of(tokens)[:-1]]
    assert num_tokens(text[:length], ends_of(tokens)) == sum(begin < length for begin in begins)
