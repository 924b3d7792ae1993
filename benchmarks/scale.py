"""Two Tritons, three services, Envoy and a Redis Cluster on one machine: what a death, a restart and a new service cost those who type.

Everything is a real process on loopback, with the small model, since two cores do not serve the default one twice. Each part is killed
with -9 while it works; the others are watched for ten seconds without it, and only then it is started again. `--hold` starts everything,
prints process ids and addresses, keeps people typing and tells every second what they get: for kills of your own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The processes are those of the tests.

import psutil
from common import Figure, arguments, model_folder, report_figures

from keyahead.engine import catalogue
from tests.scale.processes import Part, Whole, whole
from tests.scale.typists import Call, Typists, at_home, at_service, back_after, p99, strays, typing, with_text

MODEL = "smollm2-135m"
PEOPLE = 12
WARM_S = 8.0
BASE_S = 15.0
"""Typing without any trouble, which sets what p99 has to come back to."""
WATCH_S = 10.0
SETTLE_S = 3.0
SLACK = 1.25
"""p99 is back when it is at most so many times what it was. It is that of all deaths of a kind together, or it would be the worst call."""
BACK_S = 5.0
SESSIONS = 3000
STRANGE_MOVES = 10
"""Maglev moves 1 session in 1500 from one old service to another (docs/adr/0013): 2 of so many, more than 10 in one run of 100,000."""


@dataclass(frozen=True)
class Base:
    """What people get while nothing is wrong."""

    p99_s: float
    text: float
    """The share of answers with text."""


@dataclass(frozen=True)
class Victim:
    """What is to be killed."""

    part: Part
    sessions: Collection[str]
    """Of the people, those that are served there."""
    was_there: Callable[[Call], bool]


async def victims(everything: Whole, people: Typists) -> dict[str, list[Victim]]:
    """All of them, by kind. Redis may take nothing: what it held is a miss."""
    homes = await people.homes(people.sessions)

    def service(part: Part) -> Victim:
        return Victim(part, {each for each, home in homes.items() if home == part.address}, at_service(homes, part.address))

    def triton(part: Part) -> Victim:
        sessions = {each for each in people.sessions if everything.engine_of(each).address == part.address}
        return Victim(part, sessions, lambda call: call.session in sessions)

    return {
        "service": [service(each) for each in everything.services],
        "triton": [triton(each) for each in everything.engines],
        "redis": [Victim(each, people.sessions, lambda _: False) for each in everything.nodes],
    }


@dataclass
class Deaths:
    """What the deaths of one kind did. Calls' times count from the death."""

    in_flight: int = 0
    lost: int = 0
    strays: int = 0
    after: list[Call] = field(default_factory=list)

    async def kill(self, victim: Victim, people: Typists) -> None:
        """Kill one while it works, watch the others without it, and start it again."""
        await people.at_work(victim.sessions)
        self.in_flight += people.in_flight(victim.sessions)
        at = time.monotonic()
        victim.part.server.kill()
        await asyncio.sleep(WATCH_S)
        calls = [call for call in people.calls if call.done >= at]
        self.lost += sum(call.lost for call in calls)
        self.strays += len(strays(calls, at, victim.was_there))
        self.after += [replace(call, sent=call.sent - at, done=call.done - at) for call in calls]
        await victim.part.start()
        await asyncio.sleep(SETTLE_S)

    def figures(self, kind: str, number: int, base: Base) -> list[Figure]:
        """What is promised, and how many answers had text for five seconds."""
        lost = f"{self.in_flight} in flight there, {sum(call.sent >= 0 for call in self.after)} sent since"
        back = back_after(self.after, 0, WATCH_S, SLACK * base.p99_s)
        text = with_text(self.after, 0, BACK_S) / base.text
        what = f"{number} x {kind} killed"
        return [
            Figure(f"{kind}_lost", f"{what}: calls lost", self.lost, "", lost),
            Figure(f"{kind}_strays", f"{what}: of them not in flight there", self.strays, "", "", at_most=0),
            Figure(f"{kind}_back", f"{what}: until p99 is back", back, "s", f"within {SLACK * base.p99_s * 1e3:.0f} ms", at_most=BACK_S),
            Figure(f"{kind}_text", f"{what}: answers with text in {BACK_S:.0f} s", text, "x", f"{base.text:.0%} before"),
        ]


async def kills(everything: Whole, people: Typists, base: Base) -> list[Figure]:
    """Everything once, but for Envoy, one after another."""
    found: list[Figure] = []
    for kind, each in (await victims(everything, people)).items():
        deaths = Deaths()
        for victim in each:
            await deaths.kill(victim, people)
        found += deaths.figures(kind, len(each), base)
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
        Figure("shuffled", "of them from an old service to another", others, "", "", at_most=STRANGE_MOVES),
    ]


async def measure(everything: Whole) -> list[Figure]:
    """All of it, in one run."""
    async with typing(everything, PEOPLE) as people:
        await asyncio.sleep(WARM_S)
        began = time.monotonic()
        await asyncio.sleep(BASE_S)
        now = time.monotonic()
        base = Base(p99(people.calls, began, now), with_text(people.calls, began, now))
        found = [
            Figure("stuck", "calls answered by their session's service", at_home(people.calls), "", f"{PEOPLE} people", at_least=0.95),
            Figure("p99", "p99 before any trouble", base.p99_s * 1e3, "ms", f"{sum(call.sent >= began for call in people.calls)} sent"),
            *await kills(everything, people, base),
            await rolling(everything, people),
        ]
    async with typing(everything, 1) as one:
        return [*found, *await moved(everything, one)]


async def hold(everything: Whole) -> None:
    """Type until Ctrl-C, and tell what comes of it. Who is killed comes back after a while, as an orchestrator has it."""
    parts = [*everything.services, *everything.engines, *everything.nodes]
    _show(parts)
    print(f"{'Envoy':10} pid {everything.edge.process.pid:7}  {everything.edge.editors}")
    async with typing(everything, PEOPLE) as people, asyncio.TaskGroup() as keepers:
        for part in parts:
            keepers.create_task(_keep(part))
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            last = [call for call in people.calls if call.done >= now - 1]
            lost = Counter(call.code.name for call in last if call.lost)
            slow = p99(people.calls, now - BACK_S, now) * 1e3
            print(f"{len(last):3} calls  p99 {slow:.0f} ms  lost {dict(lost) or 'none'}", flush=True)


async def _keep(part: Part) -> None:
    """Bring it back when it has ended, or a process of its own has, as the one that runs a Triton's model."""
    own = _own(part)
    while True:
        await asyncio.sleep(0.1)
        if part.server.process.poll() is not None or not all(map(_lives, own)):
            print(f"{part.name} has ended; it comes back in {WATCH_S:.0f} s", flush=True)
            await asyncio.sleep(WATCH_S)
            part.server.kill()  # What is left of it.
            await part.start()
            own = _own(part)
            _show([part])


def _own(part: Part) -> list[psutil.Process]:
    return psutil.Process(part.server.process.pid).children(recursive=True)


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _show(parts: Sequence[Part]) -> None:
    for part in parts:
        print(f"{part.name:10} pid {part.server.process.pid:7}  {part.address}", flush=True)


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
