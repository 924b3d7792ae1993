"""The policy of a stack, without processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyahead.stack.policy import MAX_BACKOFF_S, PROVEN_S, Action, Effect, Phase, Policy, Rules

NAMES = ("store", "engine", "service")
CHILDREN = {name: Rules(start_s=10, stop_s=3, after=after) for name, after in zip(NAMES, ((), ("store",), ("engine",)), strict=True)}


def start(name: str) -> Effect:
    """Short for the effect."""
    return Effect(Action.START, name)


@pytest.fixture
def policy() -> Policy:
    """One of three children, each after the one before; none started."""
    return Policy(CHILDREN)


def serve(policy: Policy, now: float = 0.0) -> None:
    """Bring all children up."""
    for name in NAMES:
        assert policy.tick(now) == [start(name)]
        policy.ready(name, now)
    assert policy.phase is Phase.SERVING


def test_a_child_starts_when_those_it_comes_after_are_ready(policy: Policy) -> None:
    """Not before, and then at once."""
    assert policy.tick(0) == [start("store")]
    assert policy.tick(1) == []
    policy.ready("store", 2)
    assert policy.tick(2) == [start("engine")]
    assert policy.phase is Phase.STARTING


def test_children_that_come_after_nobody_start_together() -> None:
    """The stack serves when all are ready, in whatever order they get so."""
    rules = Rules(start_s=10, stop_s=3)
    policy = Policy({"store": rules, "engine": rules})
    assert policy.tick(0) == [start("store"), start("engine")]
    phases = []
    for name in ("engine", "store"):
        policy.ready(name, 1)
        phases.append(policy.phase)
    assert phases == [Phase.STARTING, Phase.SERVING]


def test_a_child_that_ends_before_it_is_ready_stops_the_stack(policy: Policy) -> None:
    """A failed start is not tried again; what was started before is asked to end."""
    policy.tick(0)
    policy.ready("store", 1)
    policy.tick(1)
    policy.exited("engine", 2)
    assert policy.failed == "engine"
    assert policy.tick(2) == [Effect(Action.TERMINATE, "store")]


def test_a_child_that_is_not_ready_in_time_is_killed_and_stops_the_stack(policy: Policy) -> None:
    """The limit of the start is kept, and names the child."""
    policy.tick(0)
    assert policy.tick(10) == []
    assert policy.tick(10.1) == [Effect(Action.KILL, "store")]
    policy.exited("store", 11)
    assert policy.tick(11) == []
    assert (policy.phase, policy.failed) == (Phase.STOPPED, "store")


def test_stopping_goes_in_reverse_and_kills_what_does_not_end(policy: Policy) -> None:
    """Each child is asked when those after it have ended, and killed when its time is up."""
    serve(policy)
    policy.stop()
    assert policy.tick(0) == [Effect(Action.TERMINATE, "service")]
    assert policy.tick(2.9) == []
    assert policy.tick(3.1) == [Effect(Action.KILL, "service")]
    assert policy.tick(3.2) == []
    policy.exited("service", 3.3)
    assert policy.tick(3.3) == [Effect(Action.TERMINATE, "engine")]


def test_a_child_that_ends_is_started_again_at_once(policy: Policy) -> None:
    """The first restart does not wait, and the others stay as they are."""
    serve(policy)
    policy.exited("engine", 5)
    assert policy.tick(5) == [start("engine")]


def test_a_broken_child_is_killed_and_started_again(policy: Policy) -> None:
    """A child whose process lives but is of no use is replaced."""
    serve(policy)
    assert policy.broken("engine", 5) == [Effect(Action.KILL, "engine")]
    assert policy.tick(5) == []
    policy.exited("engine", 5.2)
    assert policy.tick(5.2) == [start("engine")]


def test_a_child_that_gets_stuck_when_restarted_is_killed_and_tried_again(policy: Policy) -> None:
    """A restart that misses its limit does not end the stack."""
    serve(policy)
    policy.exited("engine", 5)
    policy.tick(5)
    assert policy.tick(15.1) == [Effect(Action.KILL, "engine")]
    policy.exited("engine", 15.2)
    assert policy.phase is Phase.SERVING
    assert policy.tick(15.7) == [start("engine")]


@given(st.integers(1, 40))
def test_pauses_between_restarts_double_up_to_a_limit(crashes: int) -> None:
    """However often a child crashes, it is started again no later than after the longest pause, and ever later up to that."""
    policy = Policy({"engine": Rules(start_s=10, stop_s=3)})
    policy.tick(0)
    policy.ready("engine", 0)
    now, pauses = 0.0, []
    for _ in range(crashes):
        policy.exited("engine", now)
        ended = now
        while not policy.tick(now):
            now += 0.25
        pauses.append(now - ended)
    assert pauses == sorted(pauses)
    assert pauses[-1] <= MAX_BACKOFF_S
    assert pauses[0] == 0


def test_a_child_that_has_proven_itself_is_restarted_at_once_again(policy: Policy) -> None:
    """Failures of long ago do not slow a restart."""
    serve(policy)
    for now in (1.0, 1.1, 2.0):
        policy.exited("store", now)
    policy.tick(10)
    policy.ready("store", 11)
    policy.exited("store", 11 + PROVEN_S)
    assert policy.tick(11 + PROVEN_S) == [start("store")]


class Life(RuleBasedStateMachine):
    """Any order of events: at no time is a child started twice, and a stop always ends with every child down."""

    @initialize()
    def begin(self) -> None:
        """Nothing runs."""
        self.policy = Policy(CHILDREN)
        self.now = 0.0
        self.alive: set[str] = set()

    @rule(seconds=st.floats(0, 20))
    def tick(self, seconds: float) -> None:
        """Time passes; do what the policy says."""
        self.now += seconds
        self.do(self.policy.tick(self.now))

    @rule(name=st.sampled_from(NAMES))
    def ready(self, name: str) -> None:
        """A starting child gets ready."""
        if name in self.alive and self.policy.is_starting(name):
            self.policy.ready(name, self.now)

    @rule(name=st.sampled_from(NAMES))
    def exit(self, name: str) -> None:
        """A living child ends by itself."""
        if name in self.alive:
            self.alive.remove(name)
            self.policy.exited(name, self.now)

    @rule(name=st.sampled_from(NAMES))
    def breaks(self, name: str) -> None:
        """A ready child is of no use any more."""
        if name in self.alive and self.policy.is_ready(name):
            self.do(self.policy.broken(name, self.now))

    @precondition(lambda self: self.policy.phase in {Phase.STARTING, Phase.SERVING})
    @rule()
    def stop(self) -> None:
        """Somebody presses Ctrl-C."""
        self.policy.stop()

    def do(self, effects: list[Effect]) -> None:
        """Children that are told to end only do so when killed."""
        for effect in effects:
            assert (effect.action is Action.START) == (effect.name not in self.alive)
            if effect.action is Action.START:
                assert self.policy.phase in {Phase.STARTING, Phase.SERVING}
                self.alive.add(effect.name)
            elif effect.action is Action.KILL:
                self.exit(effect.name)

    @invariant()
    def is_sound(self) -> None:
        """The policy does not contradict itself, and knows who lives when it has stopped."""
        self.policy.check_integrity()
        assert self.policy.phase is not Phase.STOPPED or not self.alive

    def teardown(self) -> None:
        """Whatever happened, stopping takes no more than the limits of all children."""
        self.policy.stop()
        deadline = self.now + 2 * sum(rules.start_s + rules.stop_s for rules in CHILDREN.values())
        while self.policy.phase is not Phase.STOPPED:
            assert self.now < deadline
            self.tick(0.5)


TestLife = Life.TestCase
