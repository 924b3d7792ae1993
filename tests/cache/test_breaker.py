"""The circuit breaker."""

from __future__ import annotations

import pytest

from keyahead.cache.breaker import Breaker, Breakers


class Clock:
    """A clock that moves when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at rest."""
    return Clock()


@pytest.fixture
def states() -> list[str]:
    """Where the breaker writes its changes."""
    return []


@pytest.fixture
def breaker(clock: Clock, states: list[str]) -> Breaker:
    """Opens after three failures within two seconds, for half a second."""
    return Breaker(states.append, failures=3, window_s=2.0, pause_s=0.5, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


def test_opens_at_the_last_failure_of_a_burst(breaker: Breaker, states: list[str]) -> None:
    """Two failures are borne, the third opens, and more change nothing; successes in between do not hide them."""
    fail(breaker, 2)
    breaker.succeeded()
    assert breaker.state == "closed"
    fail(breaker, 3)
    assert states == ["open"]


def test_rare_failures_do_not_open(breaker: Breaker, clock: Clock) -> None:
    """Failures further apart than the window are forgotten."""
    for _ in range(10):
        fail(breaker, 1)
        clock.now += 1.01
    assert breaker.state == "closed"


def test_one_probe_after_the_pause(breaker: Breaker, clock: Clock, states: list[str]) -> None:
    """Nobody may probe before the pause is over, and one caller only afterwards."""
    assert not breaker.take_probe()
    fail(breaker, 3)
    clock.now += 0.49
    assert not breaker.take_probe()
    clock.now += 0.01
    assert [breaker.take_probe() for _ in range(3)] == [True, False, False]
    assert states == ["open", "half_open"]


def test_a_good_probe_closes_and_forgets(breaker: Breaker, clock: Clock) -> None:
    """After recovery it takes a whole burst again to open."""
    fail(breaker, 3)
    clock.now += 0.5
    breaker.take_probe()
    breaker.succeeded()
    assert breaker.state == "closed"
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_a_bad_probe_opens_for_another_pause(breaker: Breaker, clock: Clock, states: list[str]) -> None:
    """A failed probe starts the pause anew."""
    fail(breaker, 3)
    clock.now += 0.5
    breaker.take_probe()
    breaker.failed()
    clock.now += 0.4
    assert not breaker.take_probe()
    clock.now += 0.1
    assert breaker.take_probe()
    assert states == ["open", "half_open", "open", "half_open"]


def test_late_outcomes_do_not_move_an_open_breaker(breaker: Breaker, clock: Clock) -> None:
    """Calls that began before it opened neither close it nor prolong the pause."""
    fail(breaker, 3)
    breaker.succeeded()
    assert breaker.state == "open"
    clock.now += 0.4
    breaker.failed()
    clock.now += 0.1
    assert breaker.take_probe()


def test_each_server_has_its_own(states: list[str]) -> None:
    """Keys of one server share a breaker; one that opens leaves the others closed."""
    breakers = Breakers(states.append, server_of=lambda key: key[0])
    fail(breakers.of("a1"), 3)
    assert [breakers.of(key).state for key in ("a1", "a2", "b1")] == ["open", "open", "closed"]
    assert states == ["open"]
