"""Typists at one replica, event by event: keys, cache hits, joined decodes, the engine's steps, and answers by the service's rules.

What of the service is simulated (docs/design.md, life of a request): a request is answered from the cache, joins its session's running
decode, or begins one, and stops the older that it disagrees with. A newer key supersedes the request before it. An answer is given when it
is whole, when it is enough (6 tokens, after 100 ms, or at once to a request that joined), and in any case when the budget is spent.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from keyahead.capacity.outcome import Outcome, Tally
from keyahead.capacity.replica import Job, Kind, Replica, whole
from keyahead.capacity.typists import Typist
from keyahead.capacity.workload import BUDGET_S, ON_TIME_S, Engine, Workload
from keyahead.loadtest.pace import quantile

ENOUGH_TOKENS = 6
"""As in `service/extent.py`."""
EARLY_S = 0.1
"""As in `service/pipeline.py`."""
LEAST_TOKENS = 20
"""An engine that reads fewer in its part of the budget is given the whole prompt (`service/cold.py`)."""
SHORTENED_TOKENS = 12
"""Decoded at most from a shortened prompt (`service/generations.py`)."""
HEALED_TOKENS = 1
"""The first token of a decode is the one that healing took back, and shows hardly anything new (docs/adr/0007)."""
TOKENS_PER_KEY = 1 / 3.6
"""Characters a token: 3.6 in the suggestions of `data/typing.json`."""


@dataclass(eq=False, slots=True)
class _Request:
    """One that waits for a decode."""

    asked_s: float
    job: Job
    joined: bool
    behind: float
    """Tokens of the decode that were typed before it was asked."""
    open: bool = True


@dataclass(eq=False, slots=True)
class _Person:
    keys: Typist
    next: int = 0
    job: Job | None = None
    typed: int = 0
    """Keys since the decode began."""
    request: _Request | None = None
    cold: bool = False
    """The engine has not read the whole prompt here."""

    @property
    def next_at_s(self) -> float:
        return self.keys[self.next].at_s if self.next < len(self.keys) else math.inf


class Simulation:
    """One run; a seed gives the same again."""

    def __init__(self, engine: Engine, workload: Workload, typists: Sequence[Typist], seed: int, *, warm_up_s: float = 0.0) -> None:
        """Requests asked within `warm_up_s` are simulated and not counted."""
        self._rng = random.Random(f"simulation {seed}")  # noqa: S311  # repeatable on purpose
        self._engine = engine
        self._workload = workload
        self._replica = Replica(engine, self._rng)
        self._tally = Tally()
        self._warm_up_s = warm_up_s
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._people: dict[Job, _Person] = {}
        for keys in typists:
            if keys:
                self._at(keys[0].at_s, partial(self._hit_key, _Person(keys)))

    def run(self, duration_s: float) -> Outcome:
        """Until the last request is answered; what is still being decoded for the cache is left."""
        busy_s = 0.0
        while self._events and self._events[0][0] <= duration_s + BUDGET_S:
            at_s, _, act = heapq.heappop(self._events)
            if self._now_s < self._warm_up_s <= at_s:
                busy_s = -self._replica.busy_s
            self._now_s = at_s
            act()
        return self._tally.outcome(duration_s - self._warm_up_s, busy_s + self._replica.busy_s, self._replica.batch)

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, self._number, act))

    @property
    def _counts(self) -> bool:
        return self._now_s >= self._warm_up_s

    def _hit_key(self, person: _Person) -> None:
        key = person.keys[person.next]
        person.next += 1
        if person.next < len(person.keys):
            self._at(person.next_at_s, partial(self._hit_key, person))
        self._tally.asked += self._counts
        self._supersede(person)
        person.typed += 1
        job = person.job
        if key.new_place:
            person.cold = True
        if key.new_place or self._rng.random() < self._workload.new_share or (job is not None and job.lost):
            self._begin(person)
        elif job is None or job.done:
            self._answer_from_cache(person)
        else:
            self._wait_for(person, job, joined=True)

    def _supersede(self, person: _Person) -> None:
        request, person.request = person.request, None
        if request is None or not request.open:
            return
        self._close(request)
        waited_s = self._now_s - request.asked_s
        if request.asked_s >= self._warm_up_s:
            self._tally.superseded += 1
            if waited_s > ON_TIME_S:
                self._tally.latencies_s.append(waited_s)

    def _answer_from_cache(self, person: _Person) -> None:
        latency_s = self._around_s()
        if self._counts:
            self._tally.hits += 1
            self._tally.latencies_s.append(latency_s)
            self._tally.painted += self._now_s + latency_s < person.next_at_s

    def _begin(self, person: _Person) -> None:
        """A new decode in place of the session's older one."""
        if person.job is not None and not person.job.done and not person.job.gone:
            self._replica.stop(person.job, self._now_s)
            self._people.pop(person.job, None)
        job = self._job(person)
        person.job, person.typed = job, 0
        if not self._replica.offer(job):
            if self._counts:
                self._tally.refused += 1
                self._tally.latencies_s.append(math.inf)
            return
        self._people[job] = person
        self._wait_for(person, job, joined=False)
        self._turn()

    def _job(self, person: _Person) -> Job:
        """What the decode has to read and to give. A prompt that is too long for the budget is shortened, and read whole behind that."""
        workload, total = self._workload, self._answer_tokens()
        if not person.cold:
            return self._answer(workload.warm_tokens, total)
        if workload.prompt_tokens <= self._engine.readable_tokens or self._engine.readable_tokens < LEAST_TOKENS:
            person.cold = False
            return self._answer(workload.prompt_tokens, total)
        first = person.keys[person.next - 1].new_place
        if first:
            behind = Job(Kind.READING, self._now_s, workload.prompt_tokens)
            self._people[behind] = person
            self._replica.offer(behind)
        to_read = self._engine.readable_tokens if first else workload.warm_tokens
        return self._answer(to_read, min(total, SHORTENED_TOKENS), shortened=True)

    def _answer(self, to_read: int, total: int, *, shortened: bool = False) -> Job:
        return Job(Kind.ANSWER, self._now_s, to_read, total, vain=whole(self._engine.vain, self._rng), cold=to_read, shortened=shortened)

    def _answer_tokens(self) -> int:
        """Those of a decode: the healed one, and at least one more."""
        mean = max(1.0, self._workload.answer_tokens)
        more = int(math.log(1 - self._rng.random()) / math.log(1 - 1 / mean)) if mean > 1 else 0
        return HEALED_TOKENS + 1 + more

    def _wait_for(self, person: _Person, job: Job, *, joined: bool) -> None:
        request = _Request(self._now_s, job, joined, person.typed * TOKENS_PER_KEY if joined else 0.0)
        person.request, job.wanted = request, True
        self._look(person, request)
        if request.open:
            self._at(self._now_s + EARLY_S, partial(self._look, person, request))
            self._at(self._now_s + BUDGET_S, partial(self._look, person, request))

    def _look(self, person: _Person, request: _Request) -> None:
        """Answers a request if it is time to."""
        if not request.open:
            return
        there, waited_s = request.job.given - HEALED_TOKENS - request.behind, self._now_s - request.asked_s
        spent = waited_s >= BUDGET_S - 1e-9
        enough = there >= ENOUGH_TOKENS and (request.joined or waited_s >= EARLY_S - 1e-9)
        if request.job.done or enough or spent:
            self._close(request)
            self._tally_answer(person, request, cut=not (request.job.done or enough), there=there)

    def _tally_answer(self, person: _Person, request: _Request, *, cut: bool, there: float) -> None:
        if request.asked_s < self._warm_up_s:
            return
        latency_s = self._now_s - request.asked_s + self._around_s()
        self._tally.latencies_s.append(latency_s)
        self._tally.cut += cut
        shows = there >= (self._workload.least_tokens if cut else 1)
        self._tally.painted += shows and request.asked_s + latency_s < person.next_at_s
        if not request.joined:
            self._tally.queued_s.append((request.job.started_s or self._now_s) - request.asked_s)
            self._tally.first_s.append((request.job.first_s or self._now_s) - request.asked_s)

    def _close(self, request: _Request) -> None:
        request.open = request.job.wanted = False

    def _turn(self) -> None:
        """The engine's next step, if it is free; if nothing has reached it yet, when something does."""
        if self._replica.busy:
            return
        ends_s = self._replica.begin(self._now_s)
        if ends_s is not None:
            self._at(ends_s, self._end_step)
        elif (ready_s := self._replica.next_ready_s(self._now_s)) is not None:
            self._at(ready_s, self._turn)

    def _end_step(self) -> None:
        for job in self._replica.end(self._now_s):
            self._progress(job)
        self._turn()

    def _progress(self, job: Job) -> None:
        person = self._people.get(job)
        if person is None:
            return
        if job.kind is Kind.READING:
            person.cold = person.cold and not job.done
        elif person.request is not None and person.request.job is job:
            self._look(person, person.request)
        if job.done:
            del self._people[job]
            self._finished(job)

    def _finished(self, job: Job) -> None:
        if job.kind is not Kind.ANSWER:
            return
        self._tally.completions += self._counts
        if self._replica.idle:
            self._replica.offer(Job(Kind.PREFETCH, self._now_s, self._workload.warm_tokens, self._answer_tokens()))

    def _around_s(self) -> float:
        return quantile(self._workload.around_s, self._rng.random())


def simulate(
    engine: Engine, workload: Workload, typists: Sequence[Typist], duration_s: float, seed: int = 0, warm_up_s: float = 0.0
) -> Outcome:
    """What so many typists, for so long, get of one replica."""
    return Simulation(engine, workload, typists, seed, warm_up_s=warm_up_s).run(duration_s)
