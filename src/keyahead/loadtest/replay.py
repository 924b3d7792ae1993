"""Replays typists against any system with asyncio: the plain driver, for benchmarks and tests. The load test proper uses Locust.

The loop is open: a key is hit at its moment, whether or not earlier answers have come. Latency counts from that moment, not from sending,
so a driver or a system that falls behind cannot hide it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from keyahead.loadtest.judge import Answer, Ask, Failed, Outcome, Superseded
from keyahead.loadtest.typist import Typist

GRACE_S = 2.0
"""How long answers are waited for when the last key has been hit."""

System = Callable[[int, Ask], Awaitable[Answer]]
"""What is asked: called with the typist's number and a question. A newer question of the same typist makes an older one obsolete, which the
system is free to end with `Superseded`. Raises `Failed` if there is no answer; anything else ends the replay."""


async def replay(
    typists: Sequence[Typist], system: System, until_s: float, *, clock: Callable[[], float] = time.monotonic, grace_s: float = GRACE_S
) -> None:
    """Let the typists type for so many seconds; they then have the records."""
    start = clock()

    def now_s() -> float:
        return clock() - start

    asking: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:
        for typist in typists:
            group.create_task(_type(typist, system, until_s, now_s, lambda work: _keep(asking, group.create_task(work))))
        await _until(until_s, now_s)
        if asking:
            await asyncio.wait(asking, timeout=grace_s)
        for task in asking:
            task.cancel()
    for typist in typists:
        typist.finish(now_s())


def _keep(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _type(
    typist: Typist,
    system: System,
    until_s: float,
    now_s: Callable[[], float],
    start: Callable[[Coroutine[None, None, None]], None],
) -> None:
    """Hit the keys at their moments and start a question for each that asks one."""
    while (due_s := typist.due_s) is not None and due_s < until_s:
        await _until(due_s, now_s)
        if ask := typist.act():
            start(_ask(typist, ask, system, now_s))


async def _ask(typist: Typist, ask: Ask | None, system: System, now_s: Callable[[], float]) -> None:
    """Ask, hand the answer over, and ask again if there is more to be had and the person still waits."""
    while ask:
        typist.sent(ask, now_s())
        try:
            answer = await system(typist.plan.typist, ask)
        except Superseded:
            typist.unanswered(ask, Outcome.SUPERSEDED, now_s())
            return
        except Failed as error:
            typist.unanswered(ask, Outcome.FAILED, now_s(), str(error))
            return
        ask = typist.answered(ask, answer, now_s())
        if ask:
            await _until(ask.at_s, now_s)
            ask = ask if typist.still_waits(ask) else None


async def _until(moment_s: float, now_s: Callable[[], float]) -> None:
    if (wait_s := moment_s - now_s()) > 0:
        await asyncio.sleep(wait_s)
