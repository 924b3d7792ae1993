"""How fast people type: the distributions that the replay draws from.

Figures not marked otherwise are those of `data/typing.json`: 21 developers of `microsoft/coderec_programming_states` (MIT). A test compares
them with that file.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise

BURST_S = ((0.01, 0.078), (0.05, 0.104), (0.10, 0.123), (0.25, 0.157), (0.50, 0.2315), (0.75, 0.47975), (0.90, 0.9241), (0.99, 1.76417))
"""Quantiles of the intervals between keys inside a burst. Log-normal in shape, but the fit that the file gives has a median of 282 ms where
232 were seen, so the quantiles themselves are drawn from."""
PAUSE_FROM_S = 2.0
"""A longer interval is a pause."""
PAUSE_SHARE = 1 - 1070 / 1233
"""Of all intervals between keys."""
PAUSES_S = ((1 - PAUSE_SHARE, PAUSE_FROM_S), (0.90, 2.7938), (0.95, 6.0574), (0.99, 22.20172))
"""Quantiles of all intervals from the shortest pause on. The longest hundredth is drawn as 22 s: whoever rests longer does not type."""
ACCEPT_S = ((0.05, 0.783), (0.10, 0.919), (0.25, 1.335), (0.50, 2.342), (0.75, 5.022), (0.90, 10.321), (0.95, 17.017), (0.99, 33.415))
"""Quantiles of the time from seeing a suggestion to taking it."""
TYPED_THROUGH_SHARE = 0.3773913043478261
"""Of the suggestions shown: the person types at least one character of it instead of deciding at once."""
TYPED_THROUGH_KEYS = ((1 - TYPED_THROUGH_SHARE, 1.0), (0.75, 1.0), (0.90, 3.0), (0.95, 5.0), (0.99, 11.51))
"""Quantiles of how many."""

MISTAKE_SHARE = 0.02
"""Characters that begin a mistake. An assumption: no public figure for code."""
MISTAKE_KEYS = (1, 1, 1, 2, 2, 3)
"""Wrong characters before the person notices, equally likely. An assumption, too."""

Quantiles = Sequence[tuple[float, float]]


def quantile(quantiles: Quantiles, share: float) -> float:
    """The value at a share, between two known quantiles on a straight line over the logarithm; beyond the ends, the end's value."""
    if share <= quantiles[0][0]:
        return quantiles[0][1]
    for (low, below), (high, above) in pairwise(quantiles):
        if share <= high:
            return below * math.exp(math.log(above / below) * (share - low) / (high - low))
    return quantiles[-1][1]


def burst_s(rng: random.Random) -> float:
    """An interval between two keys of a burst."""
    return quantile(BURST_S, rng.random())


def pause_s(rng: random.Random) -> float:
    """An interval in which the person thinks or reads."""
    return quantile(PAUSES_S, rng.uniform(1 - PAUSE_SHARE, 1))


def interval_s(rng: random.Random) -> float:
    """An interval between two keys of any kind."""
    return pause_s(rng) if rng.random() < PAUSE_SHARE else burst_s(rng)


def accept_s(rng: random.Random) -> float:
    """From seeing a suggestion to taking it."""
    return quantile(ACCEPT_S, rng.random())


def typed_through_keys(rng: random.Random) -> int:
    """Keys that a person goes on typing through a suggestion before deciding about it; mostly none."""
    share = rng.random()
    return round(quantile(TYPED_THROUGH_KEYS, share)) if share > 1 - TYPED_THROUGH_SHARE else 0
