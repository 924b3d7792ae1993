"""Whether one run is worse than another."""

from __future__ import annotations

import pytest

from keyahead.loadtest.compare import CompareError, compare
from tests.loadtest.results import latencies, result


def regressions(before: dict[str, object], after: dict[str, object]) -> set[str]:
    """The names of the figures that got worse."""
    return {change.name for change in compare(before, after) if change.regression}


@pytest.mark.parametrize("seed", range(2))
def test_a_planted_regression_is_found(seed: int) -> None:
    """Ten percent more latency, with noise of its own on each request, shows in the mean and at the median."""
    before = latencies(1000, seed)
    noise = latencies(1000, 100 + seed)
    after = [1.1 * value + 0.02 * (other - 60) for value, other in zip(before, noise, strict=True)]
    assert {"mean", "p50"} <= regressions(result(before), result(after))
    assert not regressions(result(after), result(before))


@pytest.mark.parametrize("seed", range(2))
def test_equal_runs_are_no_regression(seed: int) -> None:
    """Two draws from the same distribution, paired or not, are not called worse."""
    one, other = result(latencies(1000, seed)), result(latencies(1000, 50 + seed))
    assert not regressions(one, other)
    assert not regressions(one, result(latencies(1000, 50 + seed), seed=1))


def test_characters_that_are_no_longer_shown_are_found() -> None:
    """A tenth more of the characters missing from the screen is a regression, however quick the answers."""
    assert regressions(result([50.0] * 1000, 0.6), result([50.0] * 1000, 0.5)) == {"characters not shown"}


def test_a_run_without_answers_is_an_error() -> None:
    """It is said, not divided by."""
    with pytest.raises(CompareError, match="without answers"):
        compare(result([]), result([50.0]))
