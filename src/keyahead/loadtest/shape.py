"""How many people type when: pure functions, so that every shape is tested without a clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SPIKE_FACTOR = 3
SOAK_PARTS = 10


class Shape(StrEnum):
    """What a run is for."""

    STEADY = "steady"
    """The same number throughout: for the verdict."""
    RAMP = "ramp"
    """One more in each phase: for the capacity."""
    SPIKE = "spike"
    """Three times as many in the middle third."""
    SOAK = "soak"
    """The same number throughout, in ten parts that can be compared: for leaks and drift."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run in which the number of typists stays the same. Seconds from the run's start."""

    name: str
    start_s: float
    end_s: float
    typists: int


def phases(shape: Shape, typists: int, duration_s: float) -> tuple[Phase, ...]:
    """The phases of a run, without gaps. A ramp ends with `typists`, a spike has thrice as many in the middle."""
    counts = {
        Shape.STEADY: [typists],
        Shape.RAMP: list(range(1, typists + 1)),
        Shape.SPIKE: [typists, typists * SPIKE_FACTOR, typists],
        Shape.SOAK: [typists] * SOAK_PARTS,
    }[shape]
    length_s = duration_s / len(counts)
    names = {
        Shape.STEADY: ["steady"],
        Shape.RAMP: [f"{count} typist{'' if count == 1 else 's'}" for count in counts],
        Shape.SPIKE: ["before", "spike", "after"],
        Shape.SOAK: [f"part {number}" for number in range(1, len(counts) + 1)],
    }[shape]
    return tuple(Phase(names[n], n * length_s, (n + 1) * length_s, count) for n, count in enumerate(counts))


def most_typists(plan: Sequence[Phase]) -> int:
    """How many people take part."""
    return max(phase.typists for phase in plan)


def presence(plan: Sequence[Phase], typist: int) -> tuple[float, float]:
    """From when until when a typist takes part; the first ones stay longest."""
    present = [phase for phase in plan if phase.typists > typist]
    return present[0].start_s, present[-1].end_s


def phase_at(plan: Sequence[Phase], at_s: float) -> int:
    """The number of the phase of a moment; after the end, the last."""
    return next((number for number, phase in enumerate(plan) if at_s < phase.end_s), len(plan) - 1)
