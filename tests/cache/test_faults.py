"""Redis behind a faulty network: look-ups neither fail nor wait, and no answer ever goes to the wrong question."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from keyahead.cache import PrefixCache
from keyahead.cache.redis_connect import connect
from tests.cache.lookups import BUDGET_S, fill, only_redis, text_at, until, until_found
from tests.cache.proxy import Proxy
from tests.cache.servers import RedisServer, settings

if TYPE_CHECKING:
    from tests.cache.conftest import Recorder

FAULTS = {
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


@pytest.mark.asyncio
async def test_no_reply_reaches_the_wrong_request(redis_server: RedisServer) -> None:
    """Under resets in mid-reply, replies in pieces and cancels at any moment, every reply that arrives is the one to its own command.

    Below the tier, because that shields reads from cancels and its breaker would soon stop asking.
    """
    names = [f"c:{number}" for number in range(40)]
    for name in names:
        redis_server.admin.rpush(name, *[f"{name} value {each}" for each in range(8)])
    chance = random.Random(3)
    outcomes: Counter[str] = Counter()
    async with Proxy(redis_server.port) as proxy:
        link = connect(f"redis://127.0.0.1:{proxy.port}", 0.2, 8)

        async def ask(first: int) -> None:
            its = [names[(first + each) % len(names)] for each in range(9)]
            replies: list[Any] = await link.run([[("LRANGE", name, 0, 7)] for name in its])
            for name, reply in zip(its, replies, strict=True):
                outcomes["lost" if isinstance(reply, Exception) else "right"] += 1
                assert isinstance(reply, Exception) or reply == [f"{name} value {each}".encode() for each in range(8)]

        for _ in range(150):
            proxy.trickle_bytes = chance.choice([None, 7, 100])
            proxy.cut_after = chance.choice([None, None, None, chance.randrange(4000)])
            tasks = [asyncio.create_task(ask(chance.randrange(40))) for _ in range(6)]
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            for task in tasks[: chance.randrange(3)]:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                assert ended is None or isinstance(ended, asyncio.CancelledError)
                outcomes["cancelled"] += ended is not None
        await link.aclose()
    assert min(outcomes["right"], outcomes["lost"], outcomes["cancelled"]) > 50
