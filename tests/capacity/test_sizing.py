"""How many typists one replica carries."""

from __future__ import annotations

import dataclasses

import pytest

from keyahead.capacity import sizing
from keyahead.capacity.sizing import carried, problem, trial
from tests.capacity.samples import WORKLOAD, engine


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of fewer requests."""
    monkeypatch.setattr(sizing, "_REQUESTS", 400)


def test_a_faster_engine_carries_more() -> None:
    """Three times as fast, it carries more; what breaks is named."""
    slow, fast = (carried(engine(step_s, places=4), WORKLOAD) for step_s in (0.03, 0.01))
    assert fast.typists > slow.typists > 0
    assert slow.limit in {"requests refused", "answers cut too short", "p99 above 200 ms"}


def test_no_more_typists_than_prompts_that_the_engine_keeps() -> None:
    """However fast it is."""
    found = carried(engine(0.0001, warm_prompts=10.0), WORKLOAD)
    assert (found.typists, found.limit) == (10, "KV memory for more prompts")


def test_what_breaks_the_promise() -> None:
    """A p99 above 200 ms, refusals, and fewer than nine tenths of what a person alone sees."""
    alone = trial(engine(), WORKLOAD, 1)
    assert problem(alone, alone) == ""
    assert problem(dataclasses.replace(alone, p99_ms=201.0), alone) == "p99 above 200 ms"
    assert problem(dataclasses.replace(alone, p99_ms=float("inf")), alone) == "requests refused"
    assert problem(dataclasses.replace(alone, painted_share=0.89 * alone.painted_share), alone) == "answers cut too short"


def test_an_engine_that_is_too_slow_for_one_carries_nobody() -> None:
    """What lies around the engine alone takes longer than the promise."""
    late = dataclasses.replace(WORKLOAD, around_s=((0.5, 0.3), (0.99, 0.3)))
    assert carried(engine(), late).typists == 0
