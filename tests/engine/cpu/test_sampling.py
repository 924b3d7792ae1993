"""From logits to tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine.contract import EngineRequest
from keyahead.engine.cpu.sampling import sample

LOGITS = np.array([0.0, 3.0, 1.0, 2.9, -1.0], dtype=np.float32)


def draw(count: int = 300, **request: float) -> set[int]:
    """Tokens drawn at many positions."""
    made = EngineRequest(**{"top_k": 0, "seed": 1, **request})  # type: ignore[arg-type]
    return {sample(LOGITS, made, position)[0] for position in range(count)}


def test_greedy_takes_the_best() -> None:
    """top_k 1 is the largest logit, the first of equals."""
    assert sample(LOGITS, EngineRequest(), 0) == (1, None)


def test_top_k_and_top_p_limit_the_choice() -> None:
    """Only the k best, or the best that make up p, are drawn."""
    assert draw(top_k=2) == {1, 3}
    assert draw(top_p=0.3) == {1}
    assert draw(temperature=50.0) == {0, 1, 2, 3, 4}


@given(st.integers(0, 2**63), st.integers(0, 1000))
def test_a_draw_repeats(seed: int, position: int) -> None:
    """Seed and position decide."""
    request = EngineRequest(top_k=0, seed=seed)
    assert sample(LOGITS, request, position) == sample(LOGITS, request, position)


def test_log_probs_are_those_of_the_softmax() -> None:
    """The logarithm of the token's share, bias included."""
    _, log_prob = sample(LOGITS, EngineRequest(return_log_probs=True), 0)
    assert log_prob == pytest.approx(np.log(np.exp(3.0) / np.exp(LOGITS.astype(float)).sum()))
