"""Exact bounds of a share, after Clopper and Pearson (1934). "p99 at most 200 ms" is "at most 1 % slower", so it needs no distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

CONFIDENCE = 0.95
"""One-sided."""
_HALVINGS = 60


class Finding(StrEnum):
    """What a sample says about a bound."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


def at_most(count: int, total: int, share: float) -> float:
    """Probability that at most `count` of `total` are hit if each is with probability `share`."""
    if share <= 0 or count >= total:
        return 1.0
    if share >= 1:
        return 0.0
    log_hit, log_miss, log_all = math.log(share), math.log1p(-share), math.lgamma(total + 1)
    terms = (
        math.exp(log_all - math.lgamma(hits + 1) - math.lgamma(total - hits + 1) + hits * log_hit + (total - hits) * log_miss)
        for hits in range(count + 1)
    )
    return min(1.0, math.fsum(terms))


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
    """Whether the true share is at most the bound."""
    if total and upper(count, total) <= bound:
        return Finding.PASS
    return Finding.FAIL if total and lower(count, total) > bound else Finding.INCONCLUSIVE


def judge_at_least(count: int, total: int, bound: float) -> Finding:
    """Whether the true share is at least the bound."""
    return judge_at_most(total - count, total, 1 - bound)
