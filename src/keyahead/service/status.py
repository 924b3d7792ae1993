"""What the live status page shows: figures of the last minutes and of the last hour, out of the metrics' totals at earlier moments.

The page is for whoever has no Prometheus at hand. What it says is this process's own and is gone with it.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from keyahead.service import sli
from keyahead.service.metrics import LAG_BUCKETS, LATENCY_BUCKETS, STAGES
from keyahead.service.model import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prometheus_client import Counter, Histogram
    from prometheus_client.metrics import MetricWrapperBase
    from prometheus_client.samples import Sample

    from keyahead.service.metrics import Metrics

PERIOD_S: Final = 10.0
"""Time between two moments that are kept."""
KEPT: Final = 361
"""Moments kept: an hour of them, and one to begin with. Each takes about 6 KB."""
WINDOWS_S: Final = {"5m": 300.0, "1h": 3600.0, "start": math.inf}
TREND_POINTS: Final = 60

_ON_TIME: Final = LATENCY_BUCKETS.index(sli.OBJECTIVE_S)
_SOURCES: Final = tuple(source.value for source in Source)

Counts = tuple[float, ...]
"""How many observations lay at or below each bound of a histogram, the last being infinity."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The totals at one moment."""

    at: float
    """Seconds on the clock of whoever took it."""
    counters: Mapping[str, float]
    histograms: Mapping[str, Counts]


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two snapshots."""

    older: Snapshot
    newer: Snapshot

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.newer.at - self.older.at

    def count(self, name: str) -> float:
        """By how much a counter has grown."""
        return self.newer.counters.get(name, 0.0) - self.older.counters.get(name, 0.0)

    def rate(self, name: str) -> float:
        """By how much it has grown a second."""
        return self.count(name) / self.seconds if self.seconds > 0 else 0.0

    def quantile_ms(self, name: str, share: float) -> float | None:
        """A quantile of a histogram of seconds, in milliseconds."""
        newer, older = self.newer.histograms[name], self.older.histograms[name]
        counts = [new - old for new, old in zip(newer, older, strict=True)]
        found = quantile(LAG_BUCKETS if name == "lag" else LATENCY_BUCKETS, counts, share)
        return None if found is None else found * 1000


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """As PromQL's histogram_quantile: linear within a bucket, the last finite bound beyond it, None without observations."""
    rank = share * counts[-1]
    if rank <= 0:
        return None
    low = below = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count >= rank:
            return low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return bounds[-1]


class History:
    """The snapshots of the last hour, and the first. Several threads may use it."""

    def __init__(self, first: Snapshot) -> None:
        self._first = first
        self._kept: deque[Snapshot] = deque([first], KEPT)
        self._lock = threading.Lock()

    def add(self, snapshot: Snapshot) -> None:
        """Keep it; the oldest is forgotten."""
        with self._lock:
            self._kept.append(snapshot)

    def until(self, now: Snapshot, seconds: float) -> Window:
        """The window that ends now and is so long, by less than a period, or as long as the process has run."""
        if math.isinf(seconds):
            return Window(self._first, now)
        with self._lock:
            return Window(next((each for each in reversed(self._kept) if each.at <= now.at - seconds), self._kept[0]), now)

    def trend(self, now: Snapshot) -> list[Window]:
        """What is kept, in windows of equal length, at most TREND_POINTS and one."""
        with self._lock:
            kept = list(self._kept)
        stride = -(-len(kept) // TREND_POINTS)
        # Counted from the first, so that a window does not change from one look to the next.
        moments = [*kept[::stride], now]
        return [Window(older, newer) for older, newer in itertools.pairwise(moments)]


def take(metrics: Metrics, now: float) -> Snapshot:
    """The totals at this moment."""
    counters, typed = _requests(metrics)
    counters |= {
        "drafts": sum(_totals(metrics.drafts_proposed).values()),
        "accepted": sum(_totals(metrics.drafts_accepted).values()),
        **{f"{kind}_tokens": count for kind, count in _totals(metrics.tokens, "kind").items()},
    }
    stages = {stage: counts for (stage,), counts in _buckets(metrics.stages, "stage").items()}
    return Snapshot(now, counters, {"typed": typed, "lag": _buckets(metrics.loop_lag)[()], **stages})


def _requests(metrics: Metrics) -> tuple[dict[str, float], Counts]:
    """Calls by what they count for, answers by source, and the times of the answers to those who typed."""
    counters = dict.fromkeys(("good", "total", "failed", "given_up", *_SOURCES), 0.0)
    typed = [0.0] * (len(LATENCY_BUCKETS) + 1)
    for (outcome, source, trigger), counts in _buckets(metrics.requests, "outcome", "source", "trigger").items():
        count = counts[-1]
        if sli.eligible(outcome, trigger):
            good, total = sli.good_and_total(outcome, counts[_ON_TIME], count)
            counters["good"] += good
            counters["total"] += total
        if outcome == "ok":
            counters[source] = counters.get(source, 0.0) + count
            if trigger != "manual":
                typed = [sum(pair) for pair in zip(typed, counts, strict=True)]
        elif outcome in sli.GIVEN_UP:
            counters["given_up"] += count
        elif outcome not in sli.NOT_OURS:
            counters["failed"] += count
    return counters, tuple(typed)


def _samples(metric: MetricWrapperBase) -> list[Sample]:
    return [sample for family in metric.collect() for sample in family.samples]


def _buckets(histogram: Histogram, *labels: str) -> dict[tuple[str, ...], Counts]:
    """The histogram's counts, summed over all labels but these."""
    found: defaultdict[tuple[str, ...], defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for sample in _samples(histogram):
        if sample.name.endswith("_bucket"):
            # A child's samples come from the lowest bound to infinity, and a dictionary keeps that order.
            found[tuple(sample.labels[label] for label in labels)][sample.labels["le"]] += sample.value
    return {key: tuple(counts.values()) for key, counts in found.items()}


def _totals(counter: Counter, label: str = "") -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for sample in _samples(counter):
        if sample.name.endswith("_total"):
            found[sample.labels.get(label, "")] += sample.value
    return found


def report(metrics: Metrics, history: History, now: Snapshot) -> dict[str, Any]:
    """All that the page shows, as JSON has it; shares are None where nothing was counted."""
    get = metrics.registry.get_sample_value
    return {
        "objective_ms": sli.OBJECTIVE_S * 1000,
        "target": sli.TARGET,
        "build": metrics.build,
        "uptime_s": history.until(now, math.inf).seconds,
        "engine_up": bool(get("keyahead_engine_up")),
        "in_flight": get("keyahead_requests_in_flight"),
        "windows": {name: _window(history.until(now, seconds)) for name, seconds in WINDOWS_S.items()},
        "trend": [
            {"age_s": now.at - each.newer.at, "calls": each.count("total"), "p99_ms": each.quantile_ms("typed", 0.99)}
            for each in history.trend(now)
        ],
    }


def _window(window: Window) -> dict[str, Any]:
    total, answers = window.count("total"), {source: window.count(source) for source in _SOURCES}
    bad_share = _share(total - window.count("good"), total)
    hits = answers[Source.MEMORY.value] + answers[Source.REDIS.value]
    return {
        "seconds": window.seconds,
        "calls": total,
        "calls_per_s": window.rate("total"),
        "good": None if bad_share is None else 1 - bad_share,
        "budget_left": None if bad_share is None else 1 - bad_share / (1 - sli.TARGET),
        "quantiles_ms": _quantiles(window, "typed"),
        "stages_ms": {stage: _quantiles(window, stage) for stage in STAGES},
        "lag_ms": _quantiles(window, "lag"),
        "answers": answers,
        "hit_share": _share(hits, sum(answers.values())),
        "drafts": window.count("drafts"),
        "acceptance": _share(window.count("accepted"), window.count("drafts")),
        "failed": window.count("failed"),
        "given_up": window.count("given_up"),
        "completion_tokens_per_s": window.rate("completion_tokens"),
        "prompt_tokens_per_s": window.rate("prompt_tokens"),
    }


def _quantiles(window: Window, name: str) -> dict[str, float | None]:
    return {"p50": window.quantile_ms(name, 0.5), "p99": window.quantile_ms(name, 0.99)}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
