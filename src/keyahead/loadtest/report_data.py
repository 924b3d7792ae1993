"""What a report shows, as numbers: results put side by side, and series made from their records. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from keyahead.loadtest import columns
from keyahead.loadtest.capacity import is_carried
from keyahead.loadtest.compare import same_keys
from keyahead.loadtest.cost import Prices, Usage, cost
from keyahead.loadtest.figures import is_eligible, percentile
from keyahead.loadtest.judge import ON_TIME_S, Outcome, Record

PROMISE_MS = ON_TIME_S * 1000
_CURVE_POINTS = 300
"""Of a curve at most: more cannot be told apart on a page."""
_BUCKETS = 48
_LEAST_DRAFTS_S = 5
"""The engine's page is renewed and read once a second: of shorter buckets some would hold none and others two."""
_BUCKETS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
STAGES = {
    "late": "Generator was late",
    "admit": "Admission",
    "cache": "Cache",
    "prompt": "Prompt",
    "first_token": "First token",
    "decode": "Decoding",
    "trim": "Trimming",
    "rest": "Rest: network, client",
}
"""Where the time between a key and its answer goes, in this order. All but the first and the last are the service's own account."""
SOURCES = {"kept": "Kept on the screen", "memory": "Memory", "redis": "Redis", "in_flight": "Joined a decode", "engine": "New decode"}
READY = ("kept", "memory", "redis")
"""Sources that need no decode."""


@dataclass(frozen=True, slots=True)
class Objective:
    """How one of the verdict's cases is put to people."""

    title: str
    unit: str
    at_least: bool = False
    """Whether more is better."""

    def amount(self, value: float | None) -> str:
        """A value of it with its unit."""
        if value is None:
            return "-"
        return f"{value:.2%}" if self.unit == "%" else f"{value:.1f} {self.unit}"


OBJECTIVES = {
    "latency.p99": Objective("Slow or failed requests", "%"),
    "errors": Objective("Failed requests", "%"),
    "useful": Objective("Useful characters", "%", at_least=True),
    "cancel": Objective("Work after a cancel", "tokens"),
    "generator.lateness": Objective("Lateness of the generator, p99", "ms"),
    "generator.sent": Objective("Planned requests sent", "%", at_least=True),
}


class ReportError(Exception):
    """The results cannot be shown together; the text is a sentence with the cure."""


@dataclass(frozen=True, slots=True)
class System:
    """A system that was asked, and what came of it."""

    name: str
    """As the result calls it, in any case with "simulated" if it is; with its run's moment where two have the same."""
    simulated: bool
    figures: Mapping[str, Any]
    records: Sequence[Record]

    def share(self, count: str, of: str) -> float | None:
        """One of the figures as a part of another; None of nothing."""
        total: int = self.figures[of]
        return self.figures[count] / total if total else None

    @property
    def in_time(self) -> float | None:
        """Share of the eligible requests that were answered within the promise."""
        slow = self.share("slow", "eligible")
        return None if slow is None else 1 - slow


@dataclass(frozen=True, slots=True)
class Point:
    """A phase of a ramp."""

    typists: int
    latency_ms: Mapping[str, Any]
    """p50 and p99, each None if nothing was asked."""
    useful_share: float | None
    carried: bool


@dataclass(frozen=True, slots=True)
class Ramp:
    """How latency and usefulness change with the number of typists."""

    points: Sequence[Point]
    capacity: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Where time went. Milliseconds; the means are over all answers, the percentiles over those that ran the stage."""

    name: str
    before_ms: float
    """Of all stages before it."""
    mean_ms: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Sources:
    """Where answers came from, over time."""

    bucket_s: float
    """Length of a bucket; the last one may be shorter."""
    names: Sequence[str]
    counts: Sequence[Mapping[str, int]]
    """Of each bucket, by name."""

    @property
    def totals(self) -> Counter[str]:
        """Over the whole run."""
        return sum((Counter(each) for each in self.counts), Counter())

    @property
    def ready_share(self) -> float | None:
        """Of all answers, those that needed no decode."""
        total = self.totals
        return sum(total[name] for name in READY) / total.total() if total else None


@dataclass(frozen=True, slots=True)
class Drafts:
    """Tokens guessed for the engine to verify, over time: each bucket's right and wrong ones."""

    bucket_s: float
    right: Sequence[float]
    wrong: Sequence[float]

    @property
    def total(self) -> float:
        """Of the whole run."""
        return sum(self.right) + sum(self.wrong)

    @property
    def right_share(self) -> float | None:
        """Of all that were guessed; None of none."""
        return sum(self.right) / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Runs:
    """All that a report is about."""

    first: Mapping[str, Any]
    """The result whose verdict is shown."""
    config: Mapping[str, Any]
    """Of its first system."""
    systems: Sequence[System]
    """Keyahead's of the first result, then all others with the same keys."""
    ramp: Ramp | None
    cost: Mapping[str, Any] | None


def gather(results: Sequence[Mapping[str, Any]]) -> Runs:
    """Results of `keyahead loadtest` together: the first is reported, a ramp adds the capacity, others stand beside the first.

    Raises ReportError if one that is no ramp has other keys than the first.
    """
    first, ramp = results[0], next((result for result in results if result["capacity_typists"] is not None), None)
    config = first["systems"][0]["config"]
    systems: list[System] = []
    for number, result in enumerate(results, start=1):
        if result is not first and result["capacity_typists"] is not None:
            continue
        if result is not first and not same_keys(config, result["systems"][0]["config"]):
            raise ReportError(
                f"Result {number} has other keys than the first: give results of the same seed, texts and typists, or a ramp."
            )
        systems += [_system(each, result, systems) for each in result["systems"]]
    return Runs(first, config, systems, _ramp(ramp) if ramp else None, _cost(results, ramp))


def _cost(results: Sequence[Mapping[str, Any]], ramp: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """That of the ramp, or of another result with the ramp's capacity in place of its own: the page shows one capacity."""
    found: Mapping[str, Any] | None = next((result["cost"] for result in (ramp, *results) if result and result["cost"]), None)
    if not found or not ramp:
        return found
    usage = Usage(**{**found["usage"], "capacity": ramp["capacity_typists"]})
    return cost(Prices(**found["prices"]), usage).to_json()


def _system(run: Mapping[str, Any], result: Mapping[str, Any], before: Sequence[System]) -> System:
    name = run["system"]
    if run["simulated"] and "simulated" not in name:
        name = f"simulated {name}"
    if any(name == each.name for each in before):
        name = f"{name}, {datetime.fromisoformat(result['started_at']):%-d %b, %H:%M:%S}"
    return System(name, run["simulated"], run["figures"], columns.to_records(run["records"]))


def _ramp(result: Mapping[str, Any]) -> Ramp:
    phases = result["systems"][0]["phases"]
    points = [
        Point(phase["typists"], phase["figures"]["latency_ms"], phase["figures"]["useful_share"], is_carried(phase, phases[0]))
        for phase in phases
    ]
    return Ramp(points, result["capacity_typists"])


def answered_within(records: Sequence[Record]) -> list[tuple[float, float]]:
    """The distribution of the latency: milliseconds, and the share of the eligible requests that were answered by then.

    One that failed never is, so the curve may end below 1. At 200 ms it is the share that the verdict is about.
    """
    eligible = [record for record in records if is_eligible(record)]
    latencies = sorted(record.latency_s * 1000 for record in eligible if record.outcome is Outcome.ANSWERED)
    stride = max(1, len(latencies) // _CURVE_POINTS)
    ranks = sorted({*range(0, len(latencies), stride), len(latencies) - 1} - {-1})
    return [(latencies[rank], (rank + 1) / len(eligible)) for rank in ranks]


def stages(records: Sequence[Record]) -> list[Stage]:
    """Where the time of answers to keys went; nothing if the system does not tell."""
    answered = [record for record in records if record.outcome is Outcome.ANSWERED and not record.follow_up and record.stages_ms]
    spent = [_spent(record) for record in answered]
    found: list[Stage] = []
    before_ms = 0.0
    for stage, name in STAGES.items():
        if values := sorted(each[stage] for each in spent if each.get(stage)):
            mean_ms = sum(values) / len(spent)
            found.append(Stage(name, before_ms, mean_ms, percentile(values, 50) or 0.0, percentile(values, 99) or 0.0))
            before_ms += mean_ms
    return found


def _spent(record: Record) -> dict[str, float]:
    own = {stage: value for stage, value in record.stages_ms.items() if stage in STAGES}
    late = max(0.0, record.sent_s - record.at_s) * 1000
    rest = max(0.0, record.latency_s * 1000 - late - sum(own.values()))
    return {**own, "late": late, "rest": rest}


def sources(records: Sequence[Record], duration_s: float) -> Sources:
    """Where the answers to keys came from, by the moment of the key."""
    bucket_s = _bucket_s(duration_s)
    counts: list[Counter[str]] = [Counter() for _ in range(_num_buckets(duration_s, bucket_s))]
    for record in records:
        if record.outcome is Outcome.ANSWERED and not record.follow_up and record.detail:
            counts[min(len(counts) - 1, int(record.at_s // bucket_s))][record.detail] += 1
    seen = {name for bucket in counts for name in bucket}
    return Sources(bucket_s, [*(name for name in SOURCES if name in seen), *sorted(seen - set(SOURCES))], counts)


def drafts(engine: Mapping[str, Sequence[float]] | None, duration_s: float) -> Drafts | None:
    """How right guesses were, from what the engine had counted by some moments of a run; None if that is not known."""
    if not engine or not engine["at_s"]:
        return None
    bucket_s = max(_LEAST_DRAFTS_S, _bucket_s(duration_s))
    right, wrong = ([0.0] * _num_buckets(duration_s, bucket_s) for _ in range(2))
    moments = [(0.0, 0.0, 0.0), *zip(engine["at_s"], engine["drafted"], engine["accepted"], strict=True)]
    for (from_s, drafted, accepted), (to_s, drafted_then, accepted_then) in pairwise(moments):
        bucket = min(len(right) - 1, int((from_s + to_s) / 2 // bucket_s))
        right[bucket] += accepted_then - accepted
        wrong[bucket] += drafted_then - drafted - (accepted_then - accepted)
    return Drafts(bucket_s, right, wrong)


def _bucket_s(duration_s: float) -> float:
    return next((each for each in _BUCKETS_S if duration_s / each <= _BUCKETS), duration_s / _BUCKETS)


def _num_buckets(duration_s: float, bucket_s: float) -> int:
    return max(1, -int(-duration_s // bucket_s))


def is_slow(record: Record) -> bool:
    """Whether it is held against the system."""
    return is_eligible(record) and not record.on_time
