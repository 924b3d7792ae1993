"""What became of simulated requests, in the load test's terms."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from keyahead.capacity.workload import ON_TIME_S


@dataclass(slots=True)
class Tally:
    """Counted while the simulation runs."""

    asked: int = 0
    hits: int = 0
    cut: int = 0
    painted: int = 0
    refused: int = 0
    superseded: int = 0
    completions: int = 0
    """Answers decoded whole: what a cache is given."""
    latencies_s: list[float] = field(default_factory=list)
    """Of the eligible requests; a refused one has none that is finite."""
    queued_s: list[float] = field(default_factory=list)
    """From asking to the first place at the engine, of those that began anew."""
    first_s: list[float] = field(default_factory=list)
    """From asking to the first token, or to the answer if that came before, of the same."""

    def outcome(self, duration_s: float, busy_s: float, batch: float) -> Outcome:
        """The figures of a run of so long, in which the engine computed for so long, so many answers in a step."""
        latencies = np.array(self.latencies_s or [0.0])
        asked = max(1, self.asked)
        return Outcome(
            asked=self.asked,
            asked_per_s=self.asked / duration_s,
            completions_per_s=self.completions / duration_s,
            p50_ms=_percentile(latencies, 50),
            p90_ms=_percentile(latencies, 90),
            p99_ms=_percentile(latencies, 99),
            queue_p99_ms=_percentile(np.array(self.queued_s or [0.0]), 99),
            first_token_ms=float(np.mean(self.first_s or [0.0])) * 1e3,
            slow_share=float(np.mean(latencies > ON_TIME_S)),
            hit_share=self.hits / asked,
            cut_share=self.cut / asked,
            painted_share=self.painted / asked,
            refused_share=self.refused / asked,
            superseded_share=self.superseded / asked,
            busy_share=min(1.0, busy_s / duration_s),  # the last step may end after the run
            batch=batch,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one run. Shares are of all requests asked, the slow ones of the eligible."""

    asked: int
    asked_per_s: float
    completions_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    """Infinite if more than a hundredth is refused."""
    queue_p99_ms: float
    first_token_ms: float
    """Mean of the answers that began a decode; one that was cut before its first token counts with its own time."""
    slow_share: float
    hit_share: float
    """Answered by the cache."""
    cut_share: float
    """Answered with what there was when the budget was spent."""
    painted_share: float
    """Something to see before the next key."""
    refused_share: float
    superseded_share: float
    busy_share: float
    """Of the engine's time: work ahead of need included, so even an engine with much room left is often busy."""
    batch: float
    """Mean of the answers that share a step for answers."""

    def to_json(self) -> dict[str, float | None]:
        """As the command prints it; a p99 that is not finite is null."""
        return {name: value if np.isfinite(value) else None for name, value in dataclasses.asdict(self).items()}


def _percentile(values: np.ndarray[tuple[int], np.dtype[np.float64]], percent: float) -> float:
    """In milliseconds; by rank, so that a refused request does not spread into its neighbours."""
    return float(np.percentile(values, percent, method="higher")) * 1e3
