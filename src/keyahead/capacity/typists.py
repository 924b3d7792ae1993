"""When people hit keys that ask, drawn from the load test's distributions."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from dataclasses import dataclass

from keyahead.loadtest import pace

_DRAWN = 50_000
"""Intervals for their mean, which is then known within 1 %."""


@dataclass(frozen=True, slots=True)
class Key:
    """One that asks for a suggestion."""

    at_s: float
    new_place: bool
    """The engine knows nothing of the document around it."""


Typist = tuple[Key, ...]


@functools.cache
def mean_interval_s() -> float:
    """Seconds from one key to the next, pauses included."""
    rng = random.Random(0)  # noqa: S311  # repeatable on purpose
    return sum(pace.interval_s(rng) for _ in range(_DRAWN)) / _DRAWN


def draw(typists: int, duration_s: float, places_per_request: float, seed: int) -> list[Typist]:
    """People in the middle of their work: nobody has just begun."""
    rng = random.Random(f"{seed} {typists}")  # noqa: S311  # repeatable on purpose
    return [tuple(_keys(rng, duration_s, places_per_request)) for _ in range(typists)]


def _keys(rng: random.Random, duration_s: float, places_per_request: float) -> Iterable[Key]:
    at_s = rng.random() * pace.interval_s(rng)
    while at_s < duration_s:
        yield Key(at_s, rng.random() < places_per_request)
        at_s += pace.interval_s(rng)
