"""Exact bounds of a share, after Clopper and Pearson (1934). "p99 at most 200 ms" is "at most 1 % slower", so it needs no distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

CONFIDENCE = 0.95
"""One-sided."""
_HALVINGS = 50
_NEGLIGIBLE = 1e-17


class Finding(StrEnum):
    """What a sample says about a bound."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


def at_most(count: int, total: int, share: float) -> float:
    """Probability that at most `count` of `total` are hit if each is with probability `share`."""
    if count >= total or share <= 0:
        return 1.0
    if count < 0 or share >= 1:
        return 0.0
    if count > total * share:
        return 1 - _tail(total - count - 1, total, 1 - share)
    return _tail(count, total, share)


def _tail(count: int, total: int, share: float) -> float:
    """The same for a count below the mean, where each term is smaller than the one above it, so that few of them matter."""
    ways = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    term = math.exp(ways + count * math.log(share) + (total - count) * math.log1p(-share))
    tail = 0.0
    for hits in range(count, -1, -1):
        tail += term
        if term < tail * _NEGLIGIBLE:
            break
        term *= hits * (1 - share) / ((total - hits + 1) * share)
    return tail


def upper(count: int, total: int, confidence: float = CONFIDENCE) -> float:
    """The largest share that is not ruled out by seeing so few; 1 of nothing."""
    return _root(lambda share: at_most(count, total, share) > 1 - confidence) if total else 1.0


def lower(count: int, total: int, confidence: float = CONFIDENCE) -> float:
    """The smallest share that is not ruled out by seeing so many; 0 of nothing."""
    return 1 - upper(total - count, total, confidence)


def _root(is_below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return high


def judge_at_most(count: int, total: int, bound: float) -> Finding:
    """Whether the true share is at most the bound. If so few have a chance of 5 % at the bound, it is; if so many have, it is not."""
    if at_most(count, total, bound) <= 1 - CONFIDENCE and total:
        return Finding.PASS
    return Finding.FAIL if 1 - at_most(count - 1, total, bound) <= 1 - CONFIDENCE else Finding.INCONCLUSIVE


def judge_at_least(count: int, total: int, bound: float) -> Finding:
    """Whether the true share is at least the bound."""
    return judge_at_most(total - count, total, 1 - bound)
