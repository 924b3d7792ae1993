"""How many people type when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.shape import Shape, most_typists, phase_at, phases, presence


@given(st.sampled_from(Shape), st.integers(1, 40), st.floats(1, 10_000))
def test_phases_fill_the_run(shape: Shape, typists: int, duration_s: float) -> None:
    """They follow each other without a gap from the start to the end, and each moment is in one of them."""
    plan = phases(shape, typists, duration_s)
    assert plan[0].start_s == 0
    assert plan[-1].end_s == pytest.approx(duration_s)
    assert all(one.end_s == other.start_s for one, other in pairwise(plan))
    assert all(phase_at(plan, (phase.start_s + phase.end_s) / 2) == number for number, phase in enumerate(plan))
    assert phase_at(plan, duration_s * 2) == len(plan) - 1


@given(st.sampled_from(Shape), st.integers(1, 40), st.floats(1, 10_000))
def test_as_many_are_present_as_a_phase_says(shape: Shape, typists: int, duration_s: float) -> None:
    """Who takes part comes once, stays, and goes once; in the middle of every phase the number is right."""
    plan = phases(shape, typists, duration_s)
    present = [presence(plan, typist) for typist in range(most_typists(plan))]
    for phase in plan:
        middle = (phase.start_s + phase.end_s) / 2
        assert sum(start <= middle < end for start, end in present) == phase.typists


def test_shapes() -> None:
    """A ramp adds one typist at a time; a spike has thrice as many in the middle; a soak has ten equal parts."""
    assert [phase.typists for phase in phases(Shape.RAMP, 4, 60)] == [1, 2, 3, 4]
    assert [phase.typists for phase in phases(Shape.SPIKE, 2, 60)] == [2, 6, 2]
    assert [phase.typists for phase in phases(Shape.SOAK, 3, 60)] == [3] * 10
    assert [phase.typists for phase in phases(Shape.STEADY, 3, 60)] == [3]
