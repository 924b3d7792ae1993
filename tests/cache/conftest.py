"""What the cache's tests share: real Redis servers and a recorder of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from keyahead.cache import CacheEvents
from tests.cache.servers import Cluster, RedisServer, Watched

# A busy machine makes no example wrong.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty server."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An empty cluster of three."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """An empty primary with a replica and a Sentinel."""
    watched = Watched(tmp_path)
    yield watched
    watched.close()


class Recorder(CacheEvents):
    """Counts events by name and outcome."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.states: list[str] = []

    def hit(self, tier: str, typed: int) -> None:
        self.counts[f"hit {tier}"] += 1

    def miss(self) -> None:
        self.counts["miss"] += 1

    def redis_read(self, outcome: str) -> None:
        self.counts[f"read {outcome}"] += 1

    def redis_write(self, outcome: str, count: int) -> None:
        self.counts[f"write {outcome}"] += count

    def breaker(self, state: str) -> None:
        self.states.append(state)


@pytest.fixture
def events() -> Recorder:
    """An empty recorder."""
    return Recorder()
