"""Redis behind a faulty network: look-ups neither fail nor wait, and no answer ever goes to the wrong question."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keyahead.cache import PrefixCache
from keyahead.cache.redis_commands import Group
from keyahead.cache.redis_connect import Link, connect
from tests.cache.lookups import BUDGET_S, fill, only_redis, text_at, until, until_found
from tests.cache.proxy import Proxy, proxied_cluster
from tests.cache.servers import RedisServer, settings

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder

FAULTS: dict[str, dict[str, object]] = {
    "delay": {"delay_s": 0.2},
    "black hole": {"black_hole": True},
    "reset in mid-reply": {"cut_after": 3},
    "trickle": {"trickle_bytes": 1, "pause_s": 0.02},
}
PREFIXES = ["a = ", "b\n" * 10 + "a = "]
"""One place, and nine."""


async def typing(cache: PrefixCache, answers: Counter[str | None]) -> None:
    """Look-ups one after the other, without end; none may raise, and none may be later than its budget and a busy machine's slack."""
    loop = asyncio.get_running_loop()
    while True:
        for prefix in PREFIXES:
            started = loop.time()
            answers[await text_at(cache, prefix, BUDGET_S)] += 1
            assert loop.time() - started < BUDGET_S + 0.5
        await asyncio.sleep(0.01)


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_cost_hits_only(fault: str, redis_server: RedisServer, events: Recorder) -> None:
    """While the fault lasts, look-ups miss in time; the breaker opens within a second, and five after the fault's end there are hits."""
    await fill(redis_server.settings(), *PREFIXES)
    async with Proxy(redis_server.port) as proxy:
        cache = only_redis(settings(f"redis://127.0.0.1:{proxy.port}", BUDGET_S, 0.1), events)
        assert await until_found(cache, PREFIXES[0])
        answers: Counter[str | None] = Counter()
        typist = asyncio.create_task(typing(cache, answers))
        for name, value in FAULTS[fault].items():
            setattr(proxy, name, value)
        assert await until(cache, events, "open") < 1.0
        answers.clear()
        await asyncio.sleep(0.7)  # longer than the breaker's pause, so that there has been a probe
        assert set(answers) == {None}
        assert "half_open" in events.states
        proxy.heal()
        assert await until(cache, events, "closed") < 5.0
        for prefix in PREFIXES:
            assert await until_found(cache, prefix) == f"answer to {prefix}"
        assert not typist.done()
        typist.cancel()
        await cache.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["kill", "freeze"])
async def test_a_server_that_stops_and_comes_back(end: str, redis_server: RedisServer, events: Recorder) -> None:
    """The same for the real server: killed and started again, or stopped by a signal and continued."""
    cache = only_redis(redis_server.settings(BUDGET_S, 0.1), events)
    await text_at(cache, "a = ")
    answers: Counter[str | None] = Counter()
    typist = asyncio.create_task(typing(cache, answers))
    getattr(redis_server, end)()
    assert await until(cache, events, "open") < 1.0
    await asyncio.to_thread(redis_server.start if end == "kill" else redis_server.thaw)
    assert await until(cache, events, "closed") < 5.0
    await fill(redis_server.settings(), "a = ")
    assert await until_found(cache, "a = ") == "answer to a = "
    assert not typist.done()
    typist.cancel()
    await cache.aclose()


class Hammer:
    """Asks for nine lists at a time and checks that each reply is the one to its own command."""

    names = tuple(f"c:{number}" for number in range(40))

    def __init__(self, link: Link) -> None:
        self.outcomes: Counter[str] = Counter()
        self._link = link

    async def fill(self) -> None:
        groups: list[Group] = [[("RPUSH", name, *self._values(name))] for name in self.names]
        assert await self._link.run(groups) == [8] * len(groups)

    async def ask(self, first: int) -> None:
        its = [self.names[(first + each) % len(self.names)] for each in range(9)]
        replies: list[Any] = await self._link.run([[("LRANGE", name, 0, 7)] for name in its])
        for name, reply in zip(its, replies, strict=True):
            self.outcomes["lost" if isinstance(reply, Exception) else "right"] += 1
            assert isinstance(reply, Exception) or reply == self._values(name)

    async def strike(self, chance: random.Random) -> None:
        """Ask six times at once, and cancel up to two of them after a moment."""
        tasks = [asyncio.create_task(self.ask(chance.randrange(len(self.names)))) for _ in range(6)]
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        for task in tasks[: chance.randrange(3)]:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)
            self.outcomes["cancelled"] += ended is not None

    @staticmethod
    def _values(name: str) -> list[bytes]:
        return [f"{name} value {each}".encode() for each in range(8)]


@pytest.mark.asyncio
@pytest.mark.parametrize("topology", ["server", "cluster"])
async def test_no_reply_reaches_the_wrong_request(topology: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Under resets in mid-reply, replies in pieces and cancels at any moment, every reply that arrives is the one to its own command.

    Below the tier, because that shields reads from cancels and its breaker would soon stop asking.
    """
    chance = random.Random(3)
    async with AsyncExitStack() as stack:
        if topology == "cluster":
            _, proxies = await stack.enter_async_context(proxied_cluster(tmp_path))
        else:
            proxies = [await stack.enter_async_context(Proxy(request.getfixturevalue("redis_server").port))]
        link = connect(f"redis{'+cluster' * (topology == 'cluster')}://127.0.0.1:{proxies[0].port}", 0.2, 8)
        stack.push_async_callback(link.aclose)
        hammer = Hammer(link)
        await hammer.fill()
        for _ in range(150):
            for proxy in proxies:
                proxy.trickle_bytes = chance.choice([None, 7, 100])
                proxy.cut_after = chance.choice([None, None, None, chance.randrange(4000)])
            await hammer.strike(chance)
    assert min(hammer.outcomes[each] for each in ("right", "lost", "cancelled")) > 50
