"""What to do with a stack's processes: told what happens to them, says which to start, stop or kill. Knows no process and no clock."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

FIRST_BACKOFF_S = 0.5
"""Pause before the second restart in a row, doubled with each further one; the first comes at once."""
MAX_BACKOFF_S = 30.0
PROVEN_S = 60.0
"""A child that was ready for so long has forgotten its earlier failures."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When one child may start, and how long it may take."""

    start_s: float
    """Seconds until it is ready."""
    stop_s: float
    """Seconds from the request to end until it is killed."""
    after: tuple[str, ...] = ()
    """Children that must be ready before it starts with the stack; a restart waits for nobody."""


class Action(enum.Enum):
    """Something to do with a child."""

    START = "start"
    TERMINATE = "terminate"
    """Ask it to end."""
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Effect:
    """One action on one child."""

    action: Action
    name: str


class Phase(enum.Enum):
    """Where the stack is."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"
    STOPPED = "stopped"


class _State(enum.Enum):
    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"
    """Asked to end, as the stack stops."""
    DYING = "dying"
    """Killed."""


@dataclass(slots=True)
class _Child:
    rules: Rules
    state: _State = _State.DOWN
    since: float = 0.0
    """When it got into its state; DOWN: when it may start."""
    failures: int = 0

    def become(self, state: _State, now: float) -> None:
        self.state, self.since = state, now


class Policy:
    """Starts children, each when those it comes after are ready; restarts those that end later; stops them from the last to the first.

    A child that fails while the stack starts stops the stack: it would most likely fail for ever.
    Times are seconds of one steady clock. Call `tick` often and do what it says, in order.
    """

    def __init__(self, children: Mapping[str, Rules]) -> None:
        """`children` in an order in which each follows those it comes after."""
        self._children = {name: _Child(rules) for name, rules in children.items()}
        self.phase = Phase.STARTING
        self.failed: str | None = None
        """The child that made the start fail."""

    def is_starting(self, name: str) -> bool:
        """Whether the child runs and is awaited to be ready."""
        return self._children[name].state is _State.STARTING

    def is_ready(self, name: str) -> bool:
        """Whether the child has been ready since its last start."""
        return self._children[name].state is _State.READY

    def ready(self, name: str, now: float) -> None:
        """A starting child is ready."""
        self._children[name].become(_State.READY, now)
        if self.phase is Phase.STARTING and all(each.state is _State.READY for each in self._children.values()):
            self.phase = Phase.SERVING

    def exited(self, name: str, now: float) -> None:
        """A child's process has ended."""
        child = self._children[name]
        if child.state is _State.READY and now - child.since >= PROVEN_S:
            child.failures = 0
        child.failures += 1
        child.become(_State.DOWN, now + _backoff(child.failures))
        if self.phase is Phase.STARTING:
            self._fail(name)

    def broken(self, name: str, now: float) -> list[Effect]:
        """A child's process lives but is of no use any more."""
        if self.phase is Phase.STARTING:
            self._fail(name)
        self._children[name].become(_State.DYING, now)
        return [Effect(Action.KILL, name)]

    def stop(self) -> None:
        """The stack is to end."""
        if self.phase is not Phase.STOPPED:
            self.phase = Phase.STOPPING

    def tick(self, now: float) -> list[Effect]:
        """What is due."""
        if late := self._kill_late(now):
            return late
        if self.phase in {Phase.STARTING, Phase.SERVING}:
            return self._start_due(now)
        return self._stop_last(now)

    def check_integrity(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        states = [each.state for each in self._children.values()]
        assert (self.phase is Phase.STOPPED) <= all(state is _State.DOWN for state in states)  # noqa: S101
        assert (self.failed is not None) <= (self.phase in {Phase.STOPPING, Phase.STOPPED})  # noqa: S101
        if self.phase is Phase.STARTING:
            assert all(each.state is _State.DOWN or self._may_start(each) for each in self._children.values())  # noqa: S101

    def _fail(self, name: str) -> None:
        self.failed = name
        self.stop()

    def _kill_late(self, now: float) -> list[Effect]:
        late = [name for name, child in self._children.items() if _is_late(child, now)]
        for name in late:
            if self.phase is Phase.STARTING:
                self._fail(name)
            self._children[name].become(_State.DYING, now)
        return [Effect(Action.KILL, name) for name in late]

    def _stop_last(self, now: float) -> list[Effect]:
        up = [name for name, child in self._children.items() if child.state is not _State.DOWN]
        if not up:
            self.phase = Phase.STOPPED
            return []
        last = self._children[up[-1]]
        if last.state not in {_State.STARTING, _State.READY}:
            return []
        last.become(_State.ENDING, now)
        return [Effect(Action.TERMINATE, up[-1])]

    def _start_due(self, now: float) -> list[Effect]:
        due = [
            name for name, child in self._children.items() if child.state is _State.DOWN and child.since <= now and self._may_start(child)
        ]
        for name in due:
            self._children[name].become(_State.STARTING, now)
        return [Effect(Action.START, name) for name in due]

    def _may_start(self, child: _Child) -> bool:
        return self.phase is Phase.SERVING or all(self.is_ready(name) for name in child.rules.after)


def _is_late(child: _Child, now: float) -> bool:
    allowed = {_State.STARTING: child.rules.start_s, _State.ENDING: child.rules.stop_s}
    return child.state in allowed and now - child.since > allowed[child.state]


def _backoff(failures: int) -> float:
    exponent = min(failures - 2, 10)  # beyond that the limit holds anyway
    return 0.0 if failures < 2 else min(FIRST_BACKOFF_S * 2**exponent, MAX_BACKOFF_S)
