"""How many typists one replica of the engine carries: the most for whom the promise holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from keyahead.capacity import typists
from keyahead.capacity.outcome import Outcome
from keyahead.capacity.simulation import simulate
from keyahead.capacity.workload import ON_TIME_S, Engine, Workload

PAINTED_SHARE = 0.9
"""Of what a typist alone sees before the next key. The service answers on time by cutting answers short, so time alone shows no limit; the
load test's ramp judges by the same share of useful characters."""
_REQUESTS = 6_000
"""Of a trial: 60 are beyond p99."""
_SHORTEST_S, _WARM_UP_S = 4.0, 1.0
_MOST = 16_384
"""Typists of a trial; more on one engine would need dozens of services beside it."""
_HALVINGS = 5

Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Carried:
    """What one replica carries."""

    typists: int
    """At once, at most; 0 if it does not keep the promise even for one."""
    limit: str
    """What would break with more."""
    alone: Outcome
    """What a typist has who is alone."""


def trial(engine: Engine, workload: Workload, count: int, seed: int = 0, requests: int = _REQUESTS) -> Outcome:
    """So many typists in the middle of their work."""
    duration_s = _WARM_UP_S + max(_SHORTEST_S, requests * typists.mean_interval_s() / count)
    people = typists.draw(count, duration_s, workload.places_per_request, seed)
    return simulate(engine, workload, people, duration_s, seed, _WARM_UP_S)


def problem(outcome: Outcome, alone: Outcome) -> str:
    """Why the promise does not hold; empty if it does."""
    if outcome.p99_ms > ON_TIME_S * 1e3:
        return "p99 above 200 ms" if math.isfinite(outcome.p99_ms) else "requests refused"
    if outcome.painted_share < PAINTED_SHARE * alone.painted_share:
        return "answers cut too short"
    return ""


def carried(engine: Engine, workload: Workload, seed: int = 0, show: Show = lambda _: None) -> Carried:
    """Takes four times as many until the promise breaks, and halves the step until that is known within some percent."""
    alone = trial(engine, workload, 1, seed)
    most = min(_MOST, max(1, int(engine.warm_prompts)))
    limit = problem(alone, alone)
    if limit:
        return Carried(0, limit, alone)
    good, bad = 1, most + 1
    limit = "KV memory for more prompts" if most < _MOST else "the simulation's end"
    for count in _growing(most):
        show(f"{count} typists on one replica")
        found = problem(trial(engine, workload, count, seed), alone)
        if found:
            bad, limit = count, found
            break
        good = count
    for _ in range(_HALVINGS):
        if bad - good <= 1:
            break
        middle = (good + bad) // 2
        show(f"{middle} typists on one replica")
        found = problem(trial(engine, workload, middle, seed), alone)
        good, bad, limit = (good, middle, found) if found else (middle, bad, limit)
    return Carried(good, limit, alone)


def _growing(most: int) -> list[int]:
    """4, 16, 64 … and the most."""
    return [*(4**power for power in range(1, most.bit_length()) if 4**power < most), most]
