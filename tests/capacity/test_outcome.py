"""What became of simulated requests."""

from __future__ import annotations

import math

import pytest

from keyahead.capacity.outcome import Tally


def test_the_figures_of_a_tally() -> None:
    """Shares of all requests, percentiles by rank of the eligible ones, and busy never beyond the whole time."""
    tally = Tally(asked=200, hits=150, cut=10, completions=40, latencies_s=[0.004] * 150 + [0.1] * 40 + [0.25] * 2)
    outcome = tally.outcome(100.0, 101.0, 2.0)
    assert (outcome.hit_share, outcome.cut_share, outcome.asked_per_s, outcome.completions_per_s) == (0.75, 0.05, 2.0, 0.4)
    assert (outcome.p50_ms, outcome.p90_ms, outcome.p99_ms) == pytest.approx((4.0, 100.0, 250.0))
    assert outcome.slow_share == pytest.approx(2 / 192)
    assert outcome.busy_share == 1


def test_a_refused_request_has_no_latency() -> None:
    """One in a hundred makes no p99, one in two hundred leaves it as it was."""
    few, many = (Tally(asked=200, latencies_s=[0.1] * (200 - lost) + [math.inf] * lost).outcome(1.0, 0.0, 0.0) for lost in (1, 5))
    assert few.p99_ms == pytest.approx(100.0)
    assert many.p99_ms == math.inf
    assert many.to_json()["p99_ms"] is None


def test_a_run_without_requests_has_figures() -> None:
    """All zero."""
    assert Tally().outcome(1.0, 0.0, 0.0).p99_ms == 0
