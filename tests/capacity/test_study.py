"""One question, answered."""

from __future__ import annotations

import dataclasses

import pytest

from keyahead.capacity import data, sizing, study
from keyahead.capacity.bill import Demand
from tests.capacity.samples import WORKLOAD, engine

DEMAND = Demand(1000, 100.0, 1 / 3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of fewer requests."""
    monkeypatch.setattr(sizing, "_REQUESTS", 400)
    monkeypatch.setattr(study, "_REQUESTS", 400)


def test_the_planned_load_is_within_what_is_carried() -> None:
    """Each replica has at most two thirds of it, the promise holds there, and the progress is told."""
    told: list[str] = []
    found = study.study(DEMAND, engine(places=4), WORKLOAD, data.prices("l4"), show=told.append)
    assert found.bill.typists_per_engine <= found.carried.typists * 2 / 3
    assert found.planned.p99_ms <= 200
    assert found.cost_per_developer == pytest.approx(found.bill.cost / 1000)
    assert told[-1] == "the planned load"


def test_an_engine_that_carries_nobody_is_named_with_the_cure() -> None:
    """Everything takes 300 ms before the engine is even asked."""
    late = dataclasses.replace(WORKLOAD, around_s=((0.5, 0.3), (0.99, 0.3)))
    with pytest.raises(study.NotCarried, match=r"an engine keeps the promise for nobody .* choose a smaller --model"):
        study.study(DEMAND, engine(), late, data.prices("l4"))
