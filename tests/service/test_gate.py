"""The way to the engine: a place, work, and leaving, whatever happens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from keyahead.engine.contract import WorkClass
from keyahead.service.admission import Ticket
from keyahead.service.cold import PrefillRate, ReadPrompts
from keyahead.service.gate import Gate
from keyahead.service.metrics import Metrics
from keyahead.service.model import Deadline, Overloaded
from keyahead.service.prompt import Prompt

PROMPT = Prompt(tuple(range(128)))


@dataclass(eq=False)
class Job:
    """Work that ends when told to."""

    first_token_at: float | None = None
    wanted: bool = True
    begun: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        self.end = asyncio.Event()

    def stop(self) -> None:
        self.stopped, self.wanted = True, False
        self.end.set()

    async def run(self) -> None:
        self.begun = not self.stopped
        await self.end.wait()


class Way:
    """A gate of four places, and jobs sent through it."""

    def __init__(self) -> None:
        self.metrics, self.read, self.rate = Metrics(), ReadPrompts(), PrefillRate()
        self.gate = Gate(4, self.read, self.rate, self.metrics)
        self.tasks: list[asyncio.Task[None]] = []

    def send(self, tenant: str = "a", seconds: float = 5.0, due: float = 1e9, cold_s: float = 0.0) -> Job:
        job = Job()
        ticket = Ticket(tenant, WorkClass.AUTOMATIC, due, cold_s, job)
        self.gate.offer(ticket, PROMPT, len(PROMPT.tokens))
        self.tasks.append(asyncio.create_task(self.gate.run(ticket, job.run, Deadline.after(seconds))))
        return job

    def count(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value("keyahead_admission_total", {"class": "automatic", "outcome": outcome}) or 0.0


def test_the_next_begins_when_one_leaves() -> None:
    """A place is given on at once, also when its work failed or was cancelled."""

    async def main() -> None:
        way = Way()
        jobs = [way.send() for _ in range(5)]
        await asyncio.sleep(0.01)
        assert [job.begun for job in jobs] == [True] * 3 + [False] * 2
        way.tasks[0].cancel()
        jobs[1].end.set()
        await asyncio.sleep(0.01)
        assert all(job.begun for job in jobs)
        for job in jobs:
            job.end.set()
        await asyncio.gather(*way.tasks, return_exceptions=True)
        assert not way.gate._entries
        assert way.count("start") == 5

    asyncio.run(main())


def test_no_wait_is_longer_than_the_work_is_worth() -> None:
    """Work whose deadline comes before its place is stopped, not begun, and waits no more."""

    async def main() -> None:
        way = Way()
        jobs = [way.send() for _ in range(3)]
        late = way.send(seconds=0.02)
        await way.tasks[3]
        assert (late.begun, late.stopped) == (False, True)
        for job in jobs:
            job.end.set()
        await asyncio.gather(*way.tasks)

    asyncio.run(main())


def test_what_has_been_read_is_noted_while_it_runs() -> None:
    """With the first token a prompt is known to be warm, and the rate, if it was alone; a refusal is counted."""

    async def main() -> None:
        way = Way()
        job = way.send()
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(0)
        job.first_token_at = started + 0.128
        way.gate.note_progress()
        assert way.read.cold_tokens("a", PROMPT.tokens) == 0
        assert way.rate.seconds(128) == pytest.approx(0.128, abs=0.02)
        way.send("b", cold_s=0.5)
        with pytest.raises(Overloaded):
            way.send("b", due=0.0, cold_s=0.5)
        assert way.count("refuse") == 1
        for task in way.tasks:
            task.cancel()
        await asyncio.gather(*way.tasks, return_exceptions=True)

    asyncio.run(main())
