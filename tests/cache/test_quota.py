"""What tenants may write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.cache import Entry
from keyahead.cache.quota import Quota
from tests.cache.lookups import SCOPE, look_up, only_redis

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder
    from tests.cache.servers import RedisServer

RATE, BURST = 100.0, 1000.0
WRITES = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 600)), max_size=50)


@given(WRITES)
def test_it_is_a_token_bucket(writes: list[tuple[float, int]]) -> None:
    """It grants what a bucket grants that is filled at the rate up to the burst and pays for each write, and nothing else."""
    now = 0.0
    quota = Quota(RATE, BURST, clock=lambda: now)
    level = BURST
    for pause, size in writes:
        now += pause
        level = min(BURST, level + pause * RATE)
        if abs(level - size) < 1e-6:
            continue  # rounding decides
        granted = quota.take("acme", size)
        assert granted == (size <= level)
        level -= size * granted


def test_tenants_have_buckets_of_their_own() -> None:
    """One that has used its own up takes nothing from another."""
    quota = Quota(RATE, BURST, clock=lambda: 0.0)
    assert quota.take("acme", 1000)
    assert not quota.take("acme", 1)
    assert quota.take("beta", 1000)


@pytest.mark.asyncio
async def test_a_flood_is_cut_and_counted(redis_server: RedisServer, events: Recorder) -> None:
    """Beyond the quota nothing is sent to Redis, and every completion is accounted for; another tenant's is stored meanwhile."""
    cache = only_redis(redis_server.settings(quota_bytes_per_s=1.0, quota_burst_bytes=2000.0), events)
    for number in range(50):
        cache.store(SCOPE, f"# {number}\nx = ", "", Entry("y", "stop", 1, ()))
    beta = SCOPE._replace(tenant="beta")
    cache.store(beta, "x = ", "", Entry("z", "stop", 1, ()))
    await cache.aclose()
    assert events.counts["write over_quota"] > 25
    assert events.counts["write stored"] + events.counts["write over_quota"] == 51
    assert redis_server.admin.dbsize() == events.counts["write stored"]
    cache = only_redis(redis_server.settings())
    hit = await look_up(cache, beta, "x = ", "", 2.0)
    await cache.aclose()
    assert hit
