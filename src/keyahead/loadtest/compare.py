"""Whether one run is worse than another, and how surely. Pure.

Two runs of the same config have the same keys at the same moments, so they are compared block by block: blocks of 10 s are drawn with
replacement, the same in both runs, and the ratio of the two runs' figures is taken each time. What makes a block slow in both, such as a
cold file, thus cancels out. Runs with other keys are drawn from one by one. Requests within a block depend on one another (one stall delays
several), which is why blocks are drawn and not requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keyahead.loadtest import columns
from keyahead.loadtest.figures import is_eligible

BLOCK_S = 10.0
DRAWS = 2000
CONFIDENCE = 0.95
"""That no figure is called worse when none is: each is tested at its part of the 5 %."""
_FIGURES = 4
LEAST_EFFECT = 0.05
"""A smaller change is no regression, however sure: two runs on a shared machine differ by as much."""

Block = Any
"""A numpy array: of latencies in ms, or of zeros and ones."""


class CompareError(Exception):
    """The files cannot be compared; the text is a sentence with the cure."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs."""

    name: str
    before: float
    after: float
    ratio: float
    """Above 1 is worse, for every figure."""
    low: float
    high: float
    """Within these with 95 % confidence, all figures together."""
    regression: bool


def compare(before: Mapping[str, Any], after: Mapping[str, Any], seed: int = 0) -> list[Change]:
    """The changes from one system result to another. Raises CompareError if one has no answers."""
    rng = np.random.default_rng(seed)
    paired = same_keys(before["config"], after["config"])
    latencies = (_latencies(before), _latencies(after))
    missed = (_missed(before), _missed(after))
    return [
        _change("mean", latencies, np.mean, rng, paired=paired),
        _change("p50", latencies, _percentile(50), rng, paired=paired),
        _change("p99", latencies, _percentile(99), rng, paired=paired),
        _change("characters not shown", missed, np.mean, rng, paired=paired),
    ]


def same_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs' configs give the same keys."""
    names = ("typists", "duration_s", "shape", "seed", "texts", "git", "repeat")
    return not one["takes"] and not other["takes"] and all(one[name] == other[name] for name in names)


def _percentile(percent: float) -> Callable[[Block], float]:
    return lambda values: float(np.percentile(values, percent))


def _latencies(result: Mapping[str, Any]) -> list[Block]:
    records = [record for record in columns.to_records(result["records"]) if is_eligible(record)]
    return _blocks([(record.at_s, record.latency_s * 1000) for record in records], result["config"]["duration_s"])


def _missed(result: Mapping[str, Any]) -> list[Block]:
    typed = result["typed"]
    values = [(at_s, 1.0 - useful) for at_s, useful in zip(typed["at_s"], typed["useful"], strict=True)]
    return _blocks(values, result["config"]["duration_s"])


def _blocks(values: Sequence[tuple[float, float]], duration_s: float) -> list[Block]:
    count = max(1, int(duration_s // BLOCK_S))
    blocks: list[list[float]] = [[] for _ in range(count)]
    for at_s, value in values:
        blocks[min(count - 1, int(at_s // BLOCK_S))].append(value)
    return [np.array(block) for block in blocks]


def _change(
    name: str, runs: tuple[list[Block], list[Block]], figure: Callable[[Block], float], rng: np.random.Generator, *, paired: bool
) -> Change:
    before, after = (np.concatenate(blocks) for blocks in runs)
    if not before.size or not after.size:
        raise CompareError("A run without answers cannot be compared: give two results of 'keyahead loadtest --json'.")
    ratios = [_ratio(*_draw(runs, rng, paired=paired), figure) for _ in range(DRAWS)]
    tail = (1 - CONFIDENCE) / _FIGURES
    low, high = np.quantile(ratios, [tail, 1 - tail])
    ratio = _ratio(before, after, figure)
    regression = bool(low > 1 and ratio >= 1 + LEAST_EFFECT)
    return Change(name, float(figure(before)), float(figure(after)), ratio, float(low), float(high), regression)


def _draw(runs: tuple[list[Block], list[Block]], rng: np.random.Generator, *, paired: bool) -> tuple[Block, Block]:
    """Both runs made anew from blocks of their own."""
    first = rng.integers(len(runs[0]), size=len(runs[0]))
    second = first if paired else rng.integers(len(runs[1]), size=len(runs[1]))
    return np.concatenate([runs[0][number] for number in first]), np.concatenate([runs[1][number] for number in second])


def _ratio(before: Block, after: Block, figure: Callable[[Block], float]) -> float:
    """After by before; 1 where both have nothing."""
    if not before.size or not after.size:
        return 1.0
    one, other = figure(before), figure(after)
    return other / one if one else 1.0 if not other else float("inf")
