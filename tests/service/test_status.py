"""The status page's figures: windows over totals, quantiles as Prometheus has them, and what counts against the objective."""

from __future__ import annotations

import bisect
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service import status
from keyahead.service.metrics import LATENCY_BUCKETS, Metrics
from keyahead.service.model import Answer, FinishReason, Source, Timings
from keyahead.service.status import KEPT, TREND_POINTS, History, Snapshot, quantile, report, take


def cumulated(seconds: list[float]) -> list[float]:
    """What a histogram of these observations holds."""
    return [float(sum(each <= bound for each in seconds)) for bound in (*LATENCY_BUCKETS, math.inf)]


@given(st.lists(st.floats(0.001, 2.4), min_size=1), st.sampled_from((0.5, 0.9, 0.99)))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(seconds: list[float], share: float) -> None:
    """Interpolation errs by no more than a bucket's width."""
    found = quantile(LATENCY_BUCKETS, cumulated(seconds), share)
    true = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    assert found is not None
    bucket = bisect.bisect_left(LATENCY_BUCKETS, true)
    assert (0, *LATENCY_BUCKETS)[bucket] <= found <= LATENCY_BUCKETS[bucket] + 1e-9


def test_a_quantile_at_the_ends() -> None:
    """Nothing observed has none; what lies beyond the last bound is told as that bound."""
    assert quantile(LATENCY_BUCKETS, cumulated([]), 0.99) is None
    assert quantile(LATENCY_BUCKETS, cumulated([9.0]), 0.99) == LATENCY_BUCKETS[-1]


def at(second: float, calls: float = 0) -> Snapshot:
    """Totals at a moment."""
    counts = (0.0,) * len(LATENCY_BUCKETS) + (calls,)
    return Snapshot(second, {"total": calls}, {"typed": counts})


def test_a_window_holds_what_happened_in_it() -> None:
    """Five minutes of an hour; and all there is, while there is less."""
    history = History(at(0))
    for second in range(10, 3600, 10):
        history.add(at(second, calls=second))
    window = history.until(at(3600, calls=3600), 300)
    assert (window.seconds, window.count("total"), window.rate("total")) == (300, 300, 1)
    young = History(at(0)).until(at(7, calls=3), 300)
    assert (young.seconds, young.count("total")) == (7, 3)


def test_an_hour_is_kept_and_the_beginning_beside_it() -> None:
    """Memory is bounded, and the window since the start stays whole."""
    history = History(at(0))
    for second in range(10, 100_000, 10):
        history.add(at(second, calls=second))
    now = at(100_000, calls=100_000)
    assert history.until(now, 3600).seconds == 3600
    assert history.until(now, math.inf).count("total") == 100_000
    assert len(history._kept) == KEPT


@given(st.integers(0, 2 * KEPT))
def test_the_trend_is_gapless_and_short(moments: int) -> None:
    """Each window begins where the one before it ends, and the last ends now."""
    history = History(at(0))
    for moment in range(1, moments + 1):
        history.add(at(10.0 * moment))
    now = at(10.0 * moments + 5)
    trend = history.trend(now)
    assert 1 <= len(trend) <= TREND_POINTS + 1
    assert trend[-1].newer is now
    assert all(one.newer is next_.older for one, next_ in itertools.pairwise(trend))


@pytest.mark.parametrize(
    ("outcome", "trigger", "seconds", "good", "total"),
    [
        ("ok", "automatic", 0.2, 1, 1),
        ("ok", "automatic", 0.21, 0, 1),
        ("ok", "manual", 3, 0, 0),
        ("internal", "manual", 0.1, 0, 0),
        ("cancelled", "automatic", 0.1, 0, 0),
        ("cancelled", "automatic", 0.21, 0, 1),
        ("aborted", "automatic", 0.1, 0, 0),
        ("aborted", "automatic", 0.21, 0, 1),
        ("invalid_argument", "unknown", 0.3, 0, 0),
        ("unauthenticated", "unknown", 0.3, 0, 0),
        ("deadline_exceeded", "automatic", 0.1, 0, 1),
        ("internal", "automatic", 0.1, 0, 1),
        ("unavailable", "unknown", 0.1, 0, 1),
        ("resource_exhausted", "unknown", 0.001, 0, 1),
        ("unknown", "automatic", 0.1, 0, 1),
    ],
)
def test_what_counts_against_the_objective(outcome: str, trigger: str, seconds: float, good: int, total: int) -> None:
    """The rule of docs/slo.md, case by case."""
    metrics = Metrics()
    metrics.requests.labels("Complete", outcome, "none", trigger).observe(seconds)
    counters = take(metrics, 0).counters
    assert (counters["good"], counters["total"]) == (good, total)


def test_the_report_holds_what_the_page_shows() -> None:
    """One late call of four; a hit; drafts; stages; and JSON that every browser reads, before and after."""
    metrics = Metrics("tiny", "0123456789ab")
    history = History(take(metrics, 0))
    assert json.loads(json.dumps(report(metrics, history, take(metrics, 0)), allow_nan=False))["windows"]["5m"]["good"] is None
    for source, seconds in (("memory", 0.01), ("engine", 0.09), ("engine", 0.09), ("in_flight", 0.3)):
        metrics.requests.labels("Complete", "ok", source, "automatic").observe(seconds)
    metrics.answered(Answer("text", FinishReason.STOP, Source.ENGINE, 100, 7, Timings(first_token=60, total=90)))
    metrics.drafts_proposed.labels("prompt").inc(8)
    metrics.drafts_accepted.labels("prompt").inc(6)
    figures = json.loads(json.dumps(report(metrics, history, take(metrics, 10)), allow_nan=False))
    window = figures["windows"]["5m"]
    assert (window["calls"], window["good"], window["hit_share"], window["acceptance"]) == (4, 0.75, 0.25, 0.75)
    assert window["budget_left"] == pytest.approx(-24)
    assert window["answers"] == {"engine": 2, "in_flight": 1, "memory": 1, "redis": 0}
    assert (window["completion_tokens_per_s"], window["prompt_tokens_per_s"]) == (0.7, 10)
    assert 50 < window["stages_ms"]["first_token"]["p99"] < 75
    assert 250 < window["quantiles_ms"]["p99"] < 300
    assert figures["trend"][-1]["calls"] == 4


def test_calls_of_all_methods_count_together() -> None:
    """Complete and StreamComplete are one promise."""
    metrics = Metrics()
    for method, seconds in (("Complete", 0.1), ("StreamComplete", 0.1), ("StreamComplete", 0.3)):
        metrics.requests.labels(method, "ok", "engine", "automatic").observe(seconds)
    snapshot = take(metrics, 0)
    assert (snapshot.counters["good"], snapshot.counters["total"], snapshot.counters["engine"]) == (2, 3, 3)
    assert len(snapshot.histograms["typed"]) == len(LATENCY_BUCKETS) + 1
    assert snapshot.histograms["typed"][-1] == 3


def test_a_snapshot_is_small() -> None:
    """A service with many label sets still keeps some 200 numbers for each moment."""
    metrics = Metrics()
    for method in "abc":
        for source in Source:
            metrics.requests.labels(method, "ok", source.value, "manual").observe(1)
    snapshot = status.take(metrics, 0)
    assert sum(map(len, snapshot.histograms.values())) + len(snapshot.counters) < 250
