"""Choosing drafts by what they have been worth."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.drafting.arbiter import MARGIN, Arbiter, Candidate, Draft, StepCost

TOKENS = tuple(range(100, 124))


def line(*sources: str, tokens: Sequence[int] = TOKENS) -> Callable[[Sequence[int]], Iterable[Candidate]]:
    """Sources that all go on with the same tokens, each one more than the last source's."""

    def candidates(after: Sequence[int]) -> Iterable[Candidate]:
        at = len(after)
        return [Candidate(tokens[at] + number, source) for number, source in enumerate(sources)] if at < len(tokens) else []

    return candidates


def taught(slope_ms: float, rounds: int = 100, **chances: float) -> Arbiter:
    """An arbiter that has seen sources be right so often, on an engine where a draft adds so many ms to a step of 30."""
    arbiter, rng = Arbiter(), random.Random(1)
    for _ in range(rounds):
        for source, chance in chances.items():
            arbiter.learn([Candidate(7, source)], 7 if rng.random() < chance else 8)
        for drafts in (0, 8):
            arbiter.cost.observe(drafts, 30 + slope_ms * drafts, 2.0)
    return arbiter


def test_a_good_source_is_drafted_from_and_a_bad_one_is_not() -> None:
    """What is hardly ever right is not worth its milliseconds."""
    assert taught(2.0, document=0.8).choose(line("document"), 24, healing=False) is not None
    assert taught(4.0, document=0.05).choose(line("document"), 24, healing=False) is None


def test_of_several_candidates_the_likeliest_is_drafted() -> None:
    """At each place anew."""
    draft = taught(1.0, worse=0.5, better=0.9).choose(line("worse", "better"), 4, healing=False)
    assert draft is not None
    assert {each.source for each in draft.candidates} == {"better"}
    assert draft.tokens == tuple(token + 1 for token in TOKENS[: len(draft.tokens)])


def test_the_surer_a_source_the_longer_its_draft() -> None:
    """On the same engine."""
    lengths = [
        len(draft.tokens) for p in (0.5, 0.8, 0.97) if (draft := taught(2.0, document=p).choose(line("document"), 24, healing=False))
    ]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]


def test_the_dearer_a_draft_the_fewer_are_drafted() -> None:
    """Where a token more in a step costs as much as a step, nothing is drafted."""
    cheap, dear = (taught(slope, document=0.7).choose(line("document"), 24, healing=False) for slope in (1.0, 30.0))
    assert cheap is not None
    assert dear is None


@given(st.integers(-1, 30), st.integers(0, 24))
def test_a_draft_is_never_longer_than_allowed(most: int, length: int) -> None:
    """Neither than the limit nor than what was proposed."""
    draft = taught(1.0, rounds=3, document=0.9).choose(line("document", tokens=TOKENS[:length]), most, healing=False)
    assert draft is None or 0 < len(draft.tokens) <= min(most, length)


def test_it_learns_from_what_was_not_drafted() -> None:
    """A source that failed is drafted from again once its candidates would have been right."""
    arbiter = taught(3.0, document=0.05)
    assert arbiter.choose(line("document"), 24, healing=False) is None
    for token in TOKENS * 4:
        arbiter.learn([Candidate(token, "document")], token)
    assert arbiter.choose(line("document"), 24, healing=False) is not None


def test_each_source_of_a_draft_is_told_of() -> None:
    """Drafted and accepted tokens, by source."""
    told: list[tuple[str, int, int]] = []
    arbiter = Arbiter(lambda *counts: told.append(counts))
    arbiter.verified(Draft((Candidate(1, "document"), Candidate(2, "answers"), Candidate(3, "answers"))), 2)
    assert told == [("document", 1, 1), ("answers", 2, 1)]


def test_healing_by_draft_is_left_when_the_first_token_seldom_fits_and_tried_again_later() -> None:
    """A call in vain costs a step; what is not tried is forgotten little by little."""
    arbiter = taught(1.0, document=0.9)
    for _ in range(30):
        arbiter.healed(fits=False)
    assert arbiter.choose(line("document"), 24, healing=True) is None
    assert any(arbiter.choose(line("document"), 24, healing=True) for _ in range(200))


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
    assert quick.piece() > 4
    assert slow.piece() == 1
    assert MARGIN > 1
