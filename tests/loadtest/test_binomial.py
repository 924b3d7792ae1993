"""Exact bounds of a share."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.binomial import Finding, at_most, judge_at_least, judge_at_most, lower, upper


@pytest.mark.parametrize(("total", "most"), [(299, 0), (1000, 4), (3000, 20), (10_000, 83), (30_000, 271), (100_000, 948)])
def test_the_published_table(total: int, most: int) -> None:
    """So many slow requests of so many still show a p99 within the bound at 95 %; one more does not."""
    assert judge_at_most(most, total, 0.01) is Finding.PASS
    assert judge_at_most(most + 1, total, 0.01) is not Finding.PASS


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.01, 0.99))
def test_the_tail_is_the_sum_of_its_terms(count: int, total: int, share: float) -> None:
    """Against the definition, in exact binomial coefficients."""
    expected = sum(math.comb(total, hits) * share**hits * (1 - share) ** (total - hits) for hits in range(min(count, total) + 1))
    assert at_most(count, total, share) == pytest.approx(expected)


@given(st.data())
def test_bounds_enclose_the_share(data: st.DataObject) -> None:
    """Lower and upper bound lie around what was seen and have the tail that they promise."""
    total = data.draw(st.integers(1, 500))
    count = data.draw(st.integers(0, total))
    assert 0 <= lower(count, total) <= count / total <= upper(count, total) <= 1
    if count < total:
        assert at_most(count, total, upper(count, total)) == pytest.approx(0.05, rel=1e-6)
    else:
        assert upper(count, total) == 1


@given(st.integers(0, 500), st.floats(0.01, 0.99))
def test_findings_agree_both_ways(count: int, bound: float) -> None:
    """At most so many hits is at least so many misses; nothing seen shows nothing."""
    assert judge_at_most(count, 500, bound) is judge_at_least(500 - count, 500, 1 - bound)
    assert judge_at_most(0, 0, bound) is Finding.INCONCLUSIVE


def test_few_samples_fail_only_if_it_is_sure() -> None:
    """One slow request of ten may be chance; five are not."""
    assert judge_at_most(0, 10, 0.01) is Finding.INCONCLUSIVE
    assert judge_at_most(1, 10, 0.05) is Finding.INCONCLUSIVE
    assert judge_at_most(5, 10, 0.01) is Finding.FAIL
