"""The cache's events as Prometheus counters."""

from __future__ import annotations

import functools

from keyahead.cache import CacheEvents
from keyahead.cache.interface import BreakerState, ReadOutcome, Tier, WriteOutcome
from keyahead.service.metrics import Metrics


class CacheMetrics(CacheEvents):
    """Counts look-ups and writes by tier and outcome."""

    def __init__(self, metrics: Metrics) -> None:
        self._lookups = functools.cache(metrics.cache.labels)
        """The counter of a few labels, each looked up once: some are counted while a client waits."""

    def hit(self, tier: Tier, typed: int) -> None:
        """See CacheEvents."""
        self._lookups(tier, "typed_through" if typed else "exact").inc()

    def miss(self) -> None:
        """See CacheEvents."""
        self._lookups("all", "miss").inc()

    def redis_read(self, outcome: ReadOutcome) -> None:
        """See CacheEvents."""
        self._lookups("redis", f"read_{outcome}").inc()

    def redis_write(self, outcome: WriteOutcome, count: int) -> None:
        """See CacheEvents."""
        self._lookups("redis", f"write_{outcome}").inc(count)

    def breaker(self, state: BreakerState) -> None:
        """See CacheEvents."""
        self._lookups("redis", f"breaker_{state}").inc()
