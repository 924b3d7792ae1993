"""How likely a suggestion is to be taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.confidence import p_accept

log_probs = st.lists(st.floats(-20, 0), max_size=8)


@given(log_probs, st.integers(1, 100), st.integers(0, 10))
def test_it_is_a_probability(known: list[float], tokens: int, line_ends: int) -> None:
    """Whatever is known."""
    assert 0 <= p_accept(known, tokens, line_ends) <= 1


def test_a_surer_model_and_a_shorter_suggestion_are_likelier() -> None:
    """As they were when the weights were fitted."""
    assert p_accept([-0.1], 5, 0) > p_accept([-2.0], 5, 0)
    assert p_accept([-0.5], 3, 0) > p_accept([-0.5], 30, 0)


def test_nothing_is_never_taken() -> None:
    """An empty suggestion has no chance."""
    assert p_accept([-0.1], 0, 0) == 0
