"""Who goes first: simulated seconds of a saturated engine, without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.engine.cpu.fairness import LEVELS, RECENT_S, WINDOW_S, Shares

STEP_S = 0.04
Demand = Callable[[float], Mapping[str, int]]


def simulate(demand: Demand, seconds: float, shares: Shares | None = None) -> dict[str, float]:
    """Seconds that each tenant gets when a step is always for the lowest level, and the last in the alphabet where levels are equal."""
    shares = shares or Shares()
    had: dict[str, float] = {}
    now = 0.0
    while now < seconds:
        wanted = demand(now)
        if wanted:
            levels = shares.levels(wanted, now)
            chosen = min(sorted(levels, reverse=True), key=lambda tenant: levels[tenant])
            had[chosen] = had.get(chosen, 0.0) + STEP_S
            shares.charge(chosen, STEP_S * 1e3, now + STEP_S)
        now += STEP_S
    return had


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_tenants_who_want_everything_get_it_by_weight(weights: list[int]) -> None:
    """Each has its part within a level, whichever a tie prefers."""
    tenants = {f"t{index}": weight for index, weight in enumerate(weights)}
    had = simulate(lambda _: tenants, 200.0)
    for tenant, weight in tenants.items():
        share = weight / sum(weights)
        assert had[tenant] / 200.0 == pytest.approx(share, rel=1.5 / LEVELS, abs=2 * STEP_S / WINDOW_S)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5))
def test_who_wants_less_than_its_share_never_waits(gap: int, burst: int) -> None:
    """A tenant that asks for up to a third of the engine is in every step it asks for, beside one that asks for all of it."""
    gap = max(gap, 2 * burst)

    def demand(now: float) -> dict[str, int]:
        turn = round(now / STEP_S) % (gap + burst)
        return {"flood": 1, "b": 1} if turn < burst and now > WINDOW_S else {"flood": 1}

    had = simulate(demand, 60.0)
    turns = [index * STEP_S for index in range(int(60 / STEP_S))]
    wanted = sum(STEP_S for now in turns if "b" in demand(now))
    assert had["b"] == pytest.approx(wanted, abs=2 * STEP_S)


def test_who_waits_gets_a_turn_soon() -> None:
    """After having had the engine to itself, a tenant beside five new ones waits for a bounded time and not for ever."""
    shares = Shares()
    simulate(lambda _: {"old": 1}, 60.0, shares)
    had = simulate(lambda _: {"old": 1} | {f"new{index}": 1 for index in range(5)}, 20.0, shares)
    assert had["old"] > 1.0


def test_a_tenant_alone_is_always_within_its_share() -> None:
    """With nobody else there is nothing to share."""
    shares = Shares()
    simulate(lambda _: {"only": 1}, 60.0, shares)
    assert shares.levels({"only": 1}, 60.0)["only"] < LEVELS


def test_a_pause_in_typing_keeps_a_share() -> None:
    """A tenant counts for some seconds after its last request, so that a flood does not spread out between two keys; then no more."""
    shares = Shares()
    shares.levels({"typist": 1}, 58.0)
    simulate(lambda _: {"flood": 1}, 60.0, shares)
    assert shares.levels({"flood": 1}, 60.0)["flood"] >= LEVELS
    assert shares.levels({"flood": 1}, 58.1 + RECENT_S)["flood"] < LEVELS


def test_old_tenants_are_forgotten() -> None:
    """What is kept does not grow with the number of tenants that have ever come."""
    shares = Shares()
    for index in range(1000):
        shares.levels({f"t{index}": 1}, float(index))
        shares.charge(f"t{index}", 40.0, float(index))
    assert len(shares._uses) < 50
