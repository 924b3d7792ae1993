"""One engine as a queue: who gets a place, which answers share a step, and how long the step takes. Knows no clock."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from keyahead.capacity.workload import BUDGET_S, Engine

MAX_WAITING = 32
"""Of one tenant, as in `service/admission.py`; beyond it requests are refused."""
AHEAD_CHUNK = 32
"""Tokens of a step that reads a prompt behind a shortened one (`warming` of the CPU engine)."""
_SMOOTHING = 0.1


class Kind(enum.Enum):
    """Whom work is for."""

    ANSWER = "answer"
    READING = "reading"
    """A whole prompt, behind a shortened one."""
    PREFETCH = "prefetch"
    """What comes after a suggestion; ends as soon as anybody asks."""


@dataclass(eq=False, slots=True)
class Job:
    """Work for the engine."""

    kind: Kind
    offered_s: float
    to_read: int
    """Tokens of the prompt that are left to compute."""
    total: int = 0
    """Tokens of the whole answer."""
    given: int = 0
    vain: int = 0
    """Steps that are left before one gives anything."""
    wanted: bool = True
    """Whether a request waits for it."""
    gone: bool = False
    """Refused, stopped or evicted."""
    cold: int = 0
    """Tokens of the prompt that the service thinks unread."""
    shortened: bool = False
    """What was decoded of a shortened prompt is not kept: the next key shall find better (`service/generations.py`)."""
    ready_s: float = 0.0
    """Its next call reaches the engine."""
    started_s: float | None = None
    """When it got its place."""
    first_s: float | None = None
    """When its first token came."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.to_read <= 0 and self.given >= self.total

    @property
    def lost(self) -> bool:
        """Whether nothing is to be had of it any more."""
        return self.gone or (self.shortened and self.done)


_Step = list[tuple[Job, int]]
"""Work, with the tokens of its prompt that the step computes."""


def whole(mean: float, rng: random.Random) -> int:
    """A whole number next to a mean, so drawn that it is the mean."""
    return int(mean) + (rng.random() < mean % 1)


class Replica:
    """Places and steps of one engine."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self.engine = engine
        self.busy_s = 0.0
        self._steps = self._shared = 0
        self._rng = rng
        self._running: list[Job] = []
        self._waiting: list[Job] = []
        self._ahead: list[Job] = []
        self._step: _Step | None = None
        self._waited = 0
        self._held_s = 0.0
        """Usual time for which a place is held."""

    @property
    def batch(self) -> float:
        """Mean of the answers in a step that has any."""
        return self._shared / max(1, self._steps)

    @property
    def busy(self) -> bool:
        """Whether a step is under way."""
        return self._step is not None

    @property
    def idle(self) -> bool:
        """Whether no answer is being decoded."""
        return not self._running

    def offer(self, job: Job) -> bool:
        """Takes work; False if it is refused, since its turn would come too late."""
        if job.kind is not Kind.ANSWER:
            self._ahead.append(job)
            return True
        self._ahead = [other for other in self._ahead if other.kind is not Kind.PREFETCH]
        ahead = len(self._waiting)
        unread = (other.cold for other in (*self._running, *self._waiting) if other.wanted and other.first_s is None)
        wait_s = max(ahead * self._held_s / self.engine.places, self.engine.read_s * sum(cold for cold in unread if cold <= job.cold))
        if ahead >= MAX_WAITING or wait_s > BUDGET_S:
            job.gone = True
            return False
        self._waiting.append(job)
        self._settle(job.offered_s)
        return True

    def stop(self, job: Job, now_s: float) -> None:
        """Nobody wants it any more; a step that is under way ends all the same."""
        job.gone = True
        self._leave(job, now_s)

    def begin(self, now_s: float) -> float | None:
        """Begins a step if there is work for one; when it ends."""
        chosen = self._choose(now_s)
        if not chosen:
            return None
        answers = sum(job.kind is Kind.ANSWER for job, _ in chosen)
        self._steps, self._shared = self._steps + bool(answers), self._shared + answers
        tokens = sum(size or self.engine.computed for _, size in chosen)
        self._step = chosen
        step_s = self.engine.step_s(tokens, len(chosen))
        self.busy_s += step_s
        return now_s + step_s

    def end(self, now_s: float) -> list[Job]:
        """Ends the step that is under way; the work it was for."""
        jobs, self._step = self._step or [], None
        for job, size in jobs:
            job.to_read -= size
            if job.total and job.to_read <= 0:
                self._give(job, now_s)
                job.ready_s = now_s + self.engine.call_s * self.engine.calls
            if job.done:
                self._leave(job, now_s)
        return [job for job, _ in jobs]

    def next_ready_s(self, now_s: float) -> float | None:
        """When the next call of work that is on its way reaches the engine."""
        return min((job.ready_s for job in (*self._running, *self._ahead) if job.ready_s > now_s), default=None)

    def _give(self, job: Job, now_s: float) -> None:
        """What a step gives an answer."""
        if job.vain:
            job.vain -= 1
            return
        job.given += whole(self.engine.given, self._rng)
        job.first_s = now_s if job.first_s is None else job.first_s

    def _choose(self, now_s: float) -> _Step:
        """Short pieces; a chunk of a long prompt when there are none, or it has waited long enough; else what is ahead of need."""
        ready = [job for job in self._running if job.ready_s <= now_s]
        chosen = [(job, job.to_read) for job in ready if job.to_read <= self.engine.chunk]
        long = [(job, self.engine.chunk) for job in ready if job.to_read > self.engine.chunk]
        reading = [(job, min(job.to_read, AHEAD_CHUNK)) for job in self._ahead if job.kind is Kind.READING]
        late = (*long, *reading)
        if late and (not chosen or self._waited >= self.engine.patience):
            self._waited = 0
            return [*chosen, late[0]]
        self._waited += bool(late)
        return chosen or [(job, job.to_read) for job in self._ahead[:1] if job.ready_s <= now_s]

    def _settle(self, now_s: float) -> None:
        """Gives free places away; who nobody waits for leaves when somebody else does."""
        while self._waiting:
            if len(self._running) >= self.engine.places:
                victim = next((job for job in self._running if not job.wanted), None)
                if victim is None:
                    return
                victim.gone = True
                self._running.remove(victim)
            job = self._waiting.pop(0)
            job.started_s, job.ready_s = now_s, now_s + self.engine.call_s
            self._running.append(job)

    def _leave(self, job: Job, now_s: float) -> None:
        if job in self._running:
            self._running.remove(job)
            self._held_s += _SMOOTHING * (now_s - (job.started_s or now_s) - self._held_s)
        elif job in self._waiting:
            self._waiting.remove(job)
        elif job in self._ahead:
            self._ahead.remove(job)
        self._settle(now_s)
