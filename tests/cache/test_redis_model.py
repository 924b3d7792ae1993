"""The Redis tier beside the same model as the memory tier, with a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from keyahead.cache import CacheEvents
from keyahead.cache.anchors import Anchor, Candidate, Found, Place
from keyahead.cache.redis_tier import RedisTier
from tests.cache.test_memory import AgainstModel

if TYPE_CHECKING:
    from tests.cache.servers import RedisServer


class Blocking:
    """The Redis tier with the memory tier's interface."""

    def __init__(self, server: RedisServer, runner: asyncio.Runner) -> None:
        self._run = runner.run
        self._tier = RedisTier(server.settings(quota_burst_bytes=1e9), CacheEvents())

    def put(self, anchor: Anchor, candidate: Candidate) -> None:
        async def put() -> None:
            self._tier.put(anchor, candidate)
            await self._tier._writer.flush()

        self._run(put())

    def find(self, places: Iterable[Place]) -> Found | None:
        return self._run(self._tier.find(list(places), 2.0))

    def close(self) -> None:
        self._run(self._tier.aclose())


def test_redis_answers_as_memory_does(redis_server: RedisServer) -> None:
    """Whatever is stored and looked up in whatever order: the same model holds for both tiers. (Here a flush plays the part of age.)"""
    with asyncio.Runner() as runner:

        class AgainstRedis(AgainstModel):
            def make_tier(self) -> Blocking:
                redis_server.admin.flushall()
                return Blocking(redis_server, runner)

            def forget(self) -> None:
                redis_server.admin.flushall()

            def teardown(self) -> None:
                assert isinstance(self.tier, Blocking)
                self.tier.close()

        run_state_machine_as_test(AgainstRedis, settings=settings(max_examples=15, stateful_step_count=25, deadline=None))
