"""Which generations may use the engine now, which wait, and which are refused: a state machine without a clock or a task.

The CPU engine orders its work itself; a GPU engine takes requests as they come and honours no priority. So no more are given to an engine
than it works on at once, and the order of the others is decided here: a tenant with less at the engine first, then what was asked for by
hand, then the earliest deadline.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from keyahead.engine.contract import WorkClass
from keyahead.service.model import Overloaded

MAX_WAITING = 32
"""Generations of one tenant that wait at once; within an automatic request's budget far fewer get a turn."""
_MIN_RETRY_S = 0.1
_SMOOTHING = 0.1
_AHEAD_OF_NEED = frozenset({WorkClass.WARMING, WorkClass.BACKGROUND})


class Work(Protocol):
    """What a ticket stands for."""

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it."""

    @property
    def first_token_at(self) -> float | None:
        """When its prompt had been read."""

    def stop(self) -> None:
        """End it."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One generation's place in the order. Times are seconds on one monotonic clock."""

    tenant: str
    work_class: WorkClass
    due: float
    """When its answer is worth most."""
    cold_s: float
    """Time that the engine needs to read its prompt."""
    work: Work
    weight: int = 1
    started: float | None = None
    alone: bool = True
    """Whether nothing else has been at the engine while it was."""
    evicted: bool = False


class Act(enum.Enum):
    """What the shell has to do with a ticket."""

    START = "start"
    DROP = "drop"
    """It waited until nobody wanted it any more."""
    EVICT = "evict"
    """It runs, nobody waits for it, and somebody needs its place."""


Effect = tuple[Act, Ticket]


class Admission:
    """The engine's places and who waits for one."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._running: list[Ticket] = []
        self._waiting: list[Ticket] = []
        self._held_s = 0.0
        """Usual time for which a place is held."""

    @property
    def running(self) -> tuple[Ticket, ...]:
        """Tickets that hold a place."""
        return tuple(self._running)

    def offer(self, ticket: Ticket, now: float) -> list[Effect]:
        """A new ticket. Raises Overloaded when its turn would come too late, or for work ahead of need without a free place."""
        if ticket.work_class in _AHEAD_OF_NEED:
            if len(self._running) >= self._places or self._waiting:
                raise Overloaded("the engine has no place for work ahead of need", self._held_s)
        else:
            self._check(ticket, now)
        effects = self._drop_unwanted()
        self._waiting.append(ticket)
        return [*effects, *self._settle(now)]

    def leave(self, ticket: Ticket, now: float) -> list[Effect]:
        """A ticket's work has ended, or been given up; harmless when it is gone already."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif ticket in self._running:
            self._running.remove(ticket)
            self._held_s += _SMOOTHING * (now - (ticket.started or now) - self._held_s)
        return [*self._drop_unwanted(), *self._settle(now)]

    def predicted_wait(self, ticket: Ticket) -> float:
        """Seconds until the engine comes to it.

        Before it come its tenant's prompts that take no longer to read, since the engine puts short pieces first, and those that wait.
        """
        mine = [other for other in (*self._running, *self._waiting) if other.tenant == ticket.tenant and other.work.wanted]
        reading = sum(other.cold_s for other in mine if other.work.first_token_at is None and other.cold_s <= ticket.cold_s)
        ahead = sum(other.started is None for other in mine)
        return max(reading, ahead * self._held_s / self._allowance(ticket))

    def check_integrity(self) -> None:
        """Raise AssertionError unless places and queue are within their bounds and no ticket is in both."""
        assert len(self._running) <= self._places  # noqa: S101
        assert not set(self._running) & set(self._waiting)  # noqa: S101
        assert all(count <= MAX_WAITING for count in Counter(ticket.tenant for ticket in self._waiting).values())  # noqa: S101

    def _check(self, ticket: Ticket, now: float) -> None:
        wait, left = self.predicted_wait(ticket), ticket.due - now
        if wait > left:
            message = f"the engine is busy: a wait of {wait * 1e3:.0f} ms is expected, and there are {max(0.0, left) * 1e3:.0f} ms"
            raise Overloaded(message, max(_MIN_RETRY_S, wait))
        if sum(other.tenant == ticket.tenant for other in self._waiting) >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} requests of this tenant wait already", max(_MIN_RETRY_S, wait))

    def _drop_unwanted(self) -> list[Effect]:
        dropped = [ticket for ticket in self._waiting if not ticket.work.wanted]
        self._waiting = [ticket for ticket in self._waiting if ticket.work.wanted]
        return [(Act.DROP, ticket) for ticket in dropped]

    def _settle(self, now: float) -> list[Effect]:
        """Give free places away, and make room for who still waits."""
        effects: list[Effect] = []
        while len(self._running) < self._places and (ticket := self._next()) is not None:
            self._waiting.remove(ticket)
            self._running.append(ticket)
            ticket.started = now
            if len(self._running) > 1:
                for other in self._running:
                    other.alone = False
            effects.append((Act.START, ticket))
        making_room = sum(ticket.evicted for ticket in self._running)
        for ticket in self._waiting[making_room:]:
            victim = self._victim(ticket)
            if victim is not None:
                victim.evicted = True
                effects.append((Act.EVICT, victim))
        return effects

    def _victim(self, ticket: Ticket) -> Ticket | None:
        """The oldest that nobody waits for, of the same tenant or, when no place is free, of one that holds more, or ahead of need."""
        held = Counter(other.tenant for other in self._running)
        full = len(self._running) >= self._places
        for other in self._running:
            may = full and (other.work_class in _AHEAD_OF_NEED or held[other.tenant] > held[ticket.tenant])
            if (may or other.tenant == ticket.tenant) and not other.evicted and not other.work.wanted:
                return other
        return None

    def _next(self) -> Ticket | None:
        """The first in order whose tenant may have another place."""
        held = Counter(ticket.tenant for ticket in self._running)
        allowed = [ticket for ticket in self._waiting if held[ticket.tenant] < self._allowance(ticket)]

        def order(ticket: Ticket) -> tuple[float, bool, float]:
            return held[ticket.tenant] / ticket.weight, ticket.work_class is not WorkClass.MANUAL, ticket.due

        return min(allowed, key=order, default=None)

    def _allowance(self, ticket: Ticket) -> int:
        """Places that its tenant may hold: a share by weight, and never the last quarter, so that another finds one when it comes."""
        weights = {other.tenant: other.weight for other in (*self._running, *self._waiting)} | {ticket.tenant: ticket.weight}
        share = self._places * ticket.weight // sum(weights.values())
        return max(1, min(share, self._places - self._places // 4))
