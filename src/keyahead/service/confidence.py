"""How likely a person is to take a suggestion as it is: a logistic model of how sure the model was, and of the suggestion's shape.

The log-probabilities are those that calls of one step gave, the first token's nearly always: a stream is never asked for them (see
`generation.py`). The weights were fitted by `benchmarks/confidence.py`, which also shows how well they are calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

INTERCEPT = 0.75
MEAN_LOG_PROB = 1.31
LOG_TOKENS = -0.99
LINES = -0.48
USUAL_LOG_PROB = -0.48
"""Taken where none is known."""


def features(log_probs: Sequence[float], num_tokens: int, num_line_ends: int) -> tuple[float, float, float]:
    """Mean log-probability of the tokens where it is known, logarithm of the length in tokens, and whether there is more than a line."""
    mean = sum(log_probs) / len(log_probs) if log_probs else USUAL_LOG_PROB
    return mean, math.log1p(num_tokens), float(num_line_ends > 0)


def p_accept(log_probs: Sequence[float], num_tokens: int, num_line_ends: int) -> float:
    """The probability that all of a suggestion is what is then typed; 0 for an empty one."""
    if not num_tokens:
        return 0.0
    mean, length, lines = features(log_probs, num_tokens, num_line_ends)
    return 1 / (1 + math.exp(-(INTERCEPT + MEAN_LOG_PROB * mean + LOG_TOKENS * length + LINES * lines)))
