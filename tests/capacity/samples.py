"""Engines and workloads that tests can reckon with."""

from __future__ import annotations

import dataclasses
from typing import Any

from keyahead.capacity.steps import MeasuredSteps
from keyahead.capacity.workload import Engine, Workload

AROUND_S = 0.002
WORKLOAD = Workload(
    new_share=0.2,
    places_per_request=0.01,
    prompt_tokens=100,
    warm_tokens=4,
    answer_tokens=8.0,
    least_tokens=2.0,
    around_s=((0.5, AROUND_S), (0.99, AROUND_S)),
)


def engine(step_s: float = 0.01, **changes: Any) -> Engine:
    """One whose steps all take as long, whatever is in them."""
    plain = Engine(
        name="an engine",
        steps=MeasuredSteps((1.0, 64.0), (step_s, step_s)),
        places=8,
        chunk=64,
        patience=4,
        call_s=0.0,
        calls=0.0,
        vain=0.0,
        given=1.0,
        computed=1.0,
        warm_prompts=1000.0,
        kv_store_bytes=1e6,
    )
    return dataclasses.replace(plain, **changes)
