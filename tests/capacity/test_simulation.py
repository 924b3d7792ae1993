"""Typists at one replica."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.capacity.outcome import Outcome
from keyahead.capacity.simulation import EARLY_S, simulate
from keyahead.capacity.steps import MeasuredSteps
from keyahead.capacity.typists import Key, draw
from keyahead.capacity.workload import BUDGET_S, Engine, Workload
from tests.capacity.samples import AROUND_S, WORKLOAD, engine

AROUND_MS = AROUND_S * 1e3
NEVER_NEW = dataclasses.replace(WORKLOAD, new_share=0.0)


def of(served: Engine, workload: Workload = WORKLOAD, typists: int = 4, duration_s: float = 200.0, seed: int = 0) -> Outcome:
    """Some people for some minutes."""
    return simulate(served, workload, draw(typists, duration_s, workload.places_per_request, seed), duration_s, seed)


def keys(*moments: float) -> list[tuple[Key, ...]]:
    """One person, who begins at a place that is known."""
    return [tuple(Key(at_s, number == 0) for number, at_s in enumerate(moments))]


def test_the_same_seed_gives_the_same() -> None:
    """And another seed something else."""
    assert of(engine()) == of(engine())
    assert of(engine()) != of(engine(), seed=1)


def test_suggestions_that_fit_need_no_engine() -> None:
    """People who never depart from what is there get it as fast as the cache answers."""
    outcome = simulate(engine(), NEVER_NEW, draw(3, 60.0, 0.0, 0), 60.0)
    assert outcome.hit_share == 1
    assert outcome.p99_ms == pytest.approx(AROUND_MS)
    assert outcome.busy_share == 0


def test_one_new_request_takes_its_steps() -> None:
    """A prompt read whole gives the healed token, a step more the only one of the answer; the next key finds it."""
    workload = dataclasses.replace(NEVER_NEW, answer_tokens=1.0, prompt_tokens=10)
    outcome = simulate(engine(), workload, keys(1.0, 5.0), 6.0)
    assert (outcome.asked, outcome.hit_share) == (2, 0.5)
    assert outcome.p99_ms == pytest.approx(20 + AROUND_MS)


def test_a_slow_engine_is_cut_at_the_budget() -> None:
    """No answer takes longer than the budget and what lies around it. What a shortened prompt gave is not kept for the next key."""
    outcome = simulate(engine(step_s=1.0), NEVER_NEW, keys(1.0, 9.0, 20.0), 21.0)
    assert outcome.p99_ms == pytest.approx(BUDGET_S * 1e3 + AROUND_MS)
    assert outcome.cut_share == pytest.approx(2 / 3)
    assert outcome.slow_share == 0


def test_enough_is_given_early() -> None:
    """Six tokens and the healed one are there after 70 ms: it is answered after 100 ms, and a key that joins at once."""
    workload = dataclasses.replace(NEVER_NEW, answer_tokens=1000.0, prompt_tokens=10)
    outcome = simulate(engine(), workload, keys(1.0), 2.0)
    assert outcome.p50_ms == pytest.approx(EARLY_S * 1e3 + AROUND_MS)
    joined = simulate(engine(), workload, keys(1.0, 1.2), 2.0)
    assert joined.p50_ms == pytest.approx(EARLY_S * 1e3 + AROUND_MS)
    assert joined.painted_share == 1
    assert joined.asked == 2
    assert joined.hit_share == 0


def test_a_newer_key_supersedes() -> None:
    """What was asked 50 ms before counts as superseded, and not against the promise."""
    outcome = simulate(engine(step_s=0.05), NEVER_NEW, keys(1.0, 1.05), 2.0)
    assert outcome.superseded_share == 0.5
    assert outcome.slow_share == 0


def test_a_cold_prompt_is_shortened_where_it_cannot_be_read_in_time() -> None:
    """The first answer comes of the shortened prompt; the whole one is read behind it, which takes the engine longer."""
    slow = engine(step_s=0.03)
    long = dataclasses.replace(NEVER_NEW, prompt_tokens=2000, answer_tokens=1.0)
    short = dataclasses.replace(long, prompt_tokens=slow.readable_tokens)
    cold, read = (simulate(slow, workload, keys(1.0), 20.0) for workload in (long, short))
    assert cold.p99_ms <= read.p99_ms + 30.0
    assert cold.busy_share > 5 * read.busy_share


def test_refused_requests_are_never_on_time() -> None:
    """With one place and a slow engine many are refused; if more than a hundredth is, there is no p99."""
    outcome = of(engine(step_s=0.3, places=1), typists=60, duration_s=60.0)
    assert outcome.refused_share > 0.01
    assert outcome.p99_ms == math.inf
    assert outcome.to_json()["p99_ms"] is None


def test_requests_before_the_warm_up_do_not_count() -> None:
    """Of a run of which half is warm-up, the keys of the second half are counted; the shares stay."""
    people = draw(8, 200.0, WORKLOAD.places_per_request, 0)
    whole, half = (simulate(engine(), WORKLOAD, people, 200.0, 0, warm_up_s) for warm_up_s in (0.0, 100.0))
    assert half.asked == sum(key.at_s >= 100.0 for person in people for key in person)
    assert half.hit_share == pytest.approx(whole.hit_share, abs=0.05)
    assert half.busy_share == pytest.approx(whole.busy_share, rel=0.3)


@settings(max_examples=25, deadline=None)
@given(
    step_s=st.floats(0.001, 0.2),
    places=st.integers(1, 12),
    new_share=st.floats(0, 1),
    typists=st.integers(1, 12),
    seed=st.integers(0, 100),
)
def test_every_request_has_one_end(step_s: float, places: int, new_share: float, typists: int, seed: int) -> None:
    """Whatever the engine and the people: shares are shares, and answered in time, or cut, or refused, or superseded, nothing is lost."""
    workload = dataclasses.replace(WORKLOAD, new_share=new_share)
    outcome = of(engine(step_s, places=places), workload, typists, 30.0, seed)
    shares = (outcome.hit_share, outcome.cut_share, outcome.refused_share, outcome.superseded_share)
    assert all(0 <= share <= 1 for share in (*shares, outcome.painted_share, outcome.slow_share, outcome.busy_share))
    assert sum(shares) <= 1 + 1e-9
    if outcome.refused_share == 0:
        assert outcome.p99_ms <= (BUDGET_S + AROUND_S) * 1e3 + 1e-6


def test_more_people_use_the_engine_more_and_see_no_more() -> None:
    """From 2 to 32: cuts grow, hits and what is painted do not."""
    growing = engine(steps=MeasuredSteps((1.0, 64.0), (0.03, 0.5)))
    few, many = (of(growing, typists=count, duration_s=1200.0 / count) for count in (2, 32))
    assert many.batch > few.batch
    assert many.cut_share > few.cut_share
    assert many.hit_share < few.hit_share + 0.02
    assert many.painted_share < few.painted_share + 0.02
