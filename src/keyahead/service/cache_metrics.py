"""The cache's events as Prometheus counters."""

from __future__ import annotations

from keyahead.cache import CacheEvents
from keyahead.cache.interface import BreakerState, ReadOutcome, Tier, WriteOutcome
from keyahead.service.metrics import Metrics


class CacheMetrics(CacheEvents):
    """Counts look-ups and writes by tier and outcome."""

    def __init__(self, metrics: Metrics) -> None:
        self._counts = metrics.cache.counts

    def hit(self, tier: Tier, typed: int) -> None:
        """See CacheEvents."""
        self._counts[tier, "typed_through" if typed else "exact"] += 1

    def miss(self) -> None:
        """See CacheEvents."""
        self._counts["all", "miss"] += 1

    def redis_read(self, outcome: ReadOutcome) -> None:
        """See CacheEvents."""
        self._counts["redis", f"read_{outcome}"] += 1

    def redis_write(self, outcome: WriteOutcome, count: int) -> None:
        """See CacheEvents."""
        self._counts["redis", f"write_{outcome}"] += count

    def breaker(self, state: BreakerState) -> None:
        """See CacheEvents."""
        self._counts["redis", f"breaker_{state}"] += 1
