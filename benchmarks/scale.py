"""Two Tritons, three services, Envoy and a Redis Cluster on one machine: what a death, a restart and a new service cost those who type.

Everything is a real process on loopback, with the small model, since two cores do not serve the default one twice. Each part is killed
with -9, watched for ten seconds without it and only then started again. `--hold` starts everything, prints process ids and addresses, keeps
people typing and tells every second what they get: for kills of your own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The processes are those of the tests.

from common import Figure, arguments, model_folder, report_figures

from keyahead.engine import catalogue
from tests.scale.processes import Whole, whole
from tests.scale.typists import Call, Typists, at_home, at_service, back_after, p99, strays, typing

MODEL = "smollm2-135m"
PEOPLE = 6
WARM_S = 8.0
BASE_S = 15.0
"""Typing without any trouble, which sets what p99 has to come back to."""
WATCH_S = 10.0
SETTLE_S = 3.0
SLACK = 1.25
"""p99 is back when it is at most so many times what it was; with some 100 calls in a window it is its second worst."""
BACK_S = 5.0
SESSIONS = 600


async def killed(name: str, people: Typists, kill: Callable[[], None], was_there: Callable[[Call], bool], limit_s: float) -> list[Figure]:
    """Kill something and watch the others: what was lost, what of it was not in flight there, and when p99 was back."""
    at = time.monotonic()
    kill()
    await asyncio.sleep(WATCH_S)
    until, calls = time.monotonic(), list(people.calls)
    lost = [call for call in calls if call.lost and call.done >= at]
    back = back_after(calls, at, until, limit_s)
    sent = sum(call.sent >= at for call in calls)
    return [
        Figure(f"{name}_lost", f"{name} killed: calls lost", len(lost), "", f"{sent} sent since"),
        Figure(f"{name}_strays", f"{name} killed: of them not in flight there", len(strays(calls, at, was_there)), "", "", at_most=0),
        Figure(f"{name}_back", f"{name} killed: until p99 is back", back, "s", f"within {limit_s * 1e3:.0f} ms", at_most=BACK_S),
    ]


async def kills(everything: Whole, people: Typists, limit_s: float) -> list[Figure]:
    """One of each kind."""
    service = everything.site.replicas[0]
    address = f"{service.address}:{everything.site.port}"
    server, node = everything.tritons[0], everything.redis.nodes[0]
    found = await killed("service", people, service.kill, at_service(people.calls, address), limit_s)
    await everything.start_service(service)
    await asyncio.sleep(SETTLE_S)
    found += await killed("triton", people, server.kill, lambda call: everything.engine_of(call.session) is server, limit_s)
    await everything.start_triton(server)
    await asyncio.sleep(SETTLE_S)
    found += await killed("redis", people, node.kill, lambda _: False, limit_s)
    await everything.start_redis(node)
    await asyncio.sleep(SETTLE_S)
    return found


async def rolling(everything: Whole, people: Typists) -> Figure:
    """Each process is restarted in turn, while everybody types."""
    at = time.monotonic()
    turns: list[Awaitable[None]] = [
        *(everything.restart_service(each) for each in everything.site.replicas),
        *(everything.restart_triton(each) for each in everything.tritons),
        *(everything.restart_redis(each) for each in everything.redis.nodes),
        everything.replace_edge(),
    ]
    for turn in turns:
        await turn
        await asyncio.sleep(1)
    await asyncio.sleep(SETTLE_S)
    lost = Counter(call.code.name for call in people.calls if call.lost and call.done >= at)
    sent = sum(call.sent >= at for call in people.calls)
    causes = ", ".join(f"{count} {code}" for code, count in lost.items())
    return Figure("rolling", "all restarted in turn: calls lost", lost.total(), "", f"{sent} sent; {causes or 'none lost'}", at_most=0)


async def moved(everything: Whole, people: Typists) -> list[Figure]:
    """A fourth service comes: the sessions that go to it, and those that go from one old service to another."""
    sessions = [f"other-{number}" for number in range(SESSIONS)]
    before = await people.homes(sessions)
    added = everything.site.add()
    await everything.healthy()
    after = await people.homes(sessions)
    changed = [each for each in sessions if before[each] != after[each]]
    others = sum(not after[each].startswith(f"{added.address}:") for each in changed)
    return [
        Figure("moved", "a fourth service: sessions moved", len(changed) / SESSIONS, "", f"1/4 of {SESSIONS}", at_most=0.3, at_least=0.2),
        Figure("shuffled", "of them from an old service to another", others, "", "", at_most=0),
    ]


async def measure(everything: Whole) -> list[Figure]:
    """All of it, in one run."""
    async with typing(everything, PEOPLE) as people:
        await asyncio.sleep(WARM_S)
        began = time.monotonic()
        await asyncio.sleep(BASE_S)
        base = p99(people.calls, began, time.monotonic())
        found = [
            Figure("stuck", "calls answered by their session's service", at_home(people.calls), "", f"{PEOPLE} people", at_least=0.95),
            Figure("p99", "p99 before any trouble", base * 1e3, "ms"),
            *await kills(everything, people, SLACK * base),
            await rolling(everything, people),
        ]
    async with typing(everything, 1) as one:
        return [*found, *await moved(everything, one)]


async def hold(everything: Whole) -> None:
    """Type until Ctrl-C, and tell what comes of it."""
    for name, (pid, address) in everything.pids().items():
        print(f"{name:10} pid {pid:7}  {address}")
    async with typing(everything, PEOPLE) as people:
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            last = [call for call in people.calls if call.done >= now - 1]
            lost = Counter(call.code.name for call in last if call.lost)
            slow = p99(people.calls, now - BACK_S, now) * 1e3
            print(f"{len(last):3} calls  p99 {slow:.0f} ms  lost {dict(lost) or 'none'}", flush=True)


def main() -> None:
    options = arguments(__doc__, hold=True)
    model = catalogue.get(MODEL)
    with tempfile.TemporaryDirectory(prefix="keyahead-scale-") as folder, whole(Path(folder), MODEL, model_folder(model)) as everything:
        if options.hold:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(hold(everything))
            return
        report_figures(Path(__file__).stem, asyncio.run(measure(everything)), as_json=options.json)


if __name__ == "__main__":
    main()
