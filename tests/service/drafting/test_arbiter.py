"""Choosing drafts by what they have been worth."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.drafting.arbiter import MARGIN, Arbiter, Draft, StepCost

TOKENS = tuple(range(100, 124))


def taught(acceptance: float, slope_ms: float, source: str = "document", rounds: int = 60) -> Arbiter:
    """An arbiter that has seen a source of this acceptance on an engine where a draft adds so many ms to a step of 30."""
    arbiter, rng = Arbiter(), random.Random(1)
    for _ in range(rounds):
        accepted = next((i for i in range(8) if rng.random() >= acceptance), 8)
        arbiter.verified(Draft(source, TOKENS[:8]), accepted)
        for drafts in (0, 8):
            arbiter.cost.observe(drafts, 30 + slope_ms * drafts, 2.0)
    return arbiter


def test_a_good_source_is_drafted_from_and_a_bad_one_is_not() -> None:
    """What is hardly ever right is not worth its milliseconds."""
    assert taught(0.8, 2.0).choose([Draft("document", TOKENS)], 24, healing=False) is not None
    assert taught(0.05, 4.0).choose([Draft("document", TOKENS)], 24, healing=False) is None


def test_the_better_a_source_the_longer_its_draft() -> None:
    """On the same engine."""
    lengths = [
        len(draft.tokens) for p in (0.5, 0.8, 0.97) if (draft := taught(p, 2.0).choose([Draft("document", TOKENS)], 24, healing=False))
    ]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]


def test_the_dearer_a_draft_the_fewer_are_drafted() -> None:
    """Where a token more in a step costs as much as a step, nothing is drafted."""
    cheap, dear = (taught(0.7, slope).choose([Draft("document", TOKENS)], 24, healing=False) for slope in (1.0, 30.0))
    assert cheap is not None
    assert dear is None


@given(st.integers(0, 30), st.integers(0, 24))
def test_a_draft_is_never_longer_than_allowed(most: int, length: int) -> None:
    """Neither than the limit nor than what was proposed."""
    draft = taught(0.9, 1.0, rounds=3).choose([Draft("document", TOKENS[:length])], most, healing=False)
    assert draft is None or 0 < len(draft.tokens) <= min(most, length)


def test_a_source_that_failed_gets_another_chance() -> None:
    """What is passed over is forgotten little by little."""
    arbiter = taught(0.05, 3.0)
    tries = (arbiter.choose([Draft("document", TOKENS)], 24, healing=False) for _ in range(200))
    assert any(tries)


def test_healing_by_draft_is_left_when_the_first_token_seldom_fits() -> None:
    """A call in vain costs a step."""
    arbiter = Arbiter()
    draft = Draft("healing", (5,))
    for _ in range(30):
        arbiter.healed(draft, fits=False)
    assert arbiter.choose([draft], 24, healing=True) is None


def test_a_step_costs_what_was_measured() -> None:
    """A line through the measurements, newer ones counting more, and never falling with the drafts."""
    cost = StepCost()
    for _ in range(200):
        cost.observe(0, 20.0, 1.0)
        cost.observe(8, 28.0, 1.0)
    assert abs(cost.step(0) - 20) < 0.5
    assert abs(cost.step(16) - 36) < 1
    assert abs(cost.overhead - 1) < 0.1
    for _ in range(200):
        cost.observe(0, 40.0, 1.0)
        cost.observe(8, 30.0, 1.0)
    assert cost.step(8) >= cost.step(0)


def test_plain_decoding_asks_for_as_many_tokens_as_make_its_calls_cheap() -> None:
    """Many where a step is quick against its call, few where it is slow."""
    quick, slow = Arbiter(), Arbiter()
    for _ in range(200):
        quick.cost.observe(0, 3.0, 3.0)
        slow.cost.observe(0, 60.0, 2.0)
    assert quick.piece() > 20
    assert slow.piece() <= 2
    assert MARGIN > 1
