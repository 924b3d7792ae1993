"""The figures that come with the model."""

from __future__ import annotations

import pytest

from keyahead.capacity import data
from keyahead.engine.store import SetupError
from keyahead.engine.trtllm.gpus import GPUS
from keyahead.engine.trtllm.precision import Precision
from keyahead.engine.trtllm.verdicts import PlanRefused


def test_the_measured_figures_are_of_use() -> None:
    """Steps that grow with their tokens, shares that are shares, and the machine they were taken on."""
    steps = data.cpu_engine().steps
    assert [steps(tokens, 1) for tokens in (1, 8, 64)] == sorted(steps(tokens, 1) for tokens in (1, 8, 64))
    assert 0 < data.workload().new_share < 1
    assert data.workload().around_s == tuple(sorted(data.workload().around_s))
    assert "2026" in data.machine()


@pytest.mark.parametrize("gpu", [data.CPU, *GPUS])
def test_every_kind_of_engine_has_a_price_and_its_source(gpu: str) -> None:
    """So has every seat it is compared with; prices that are given replace them."""
    found = data.prices(gpu)
    assert all(
        price.price > 0 and price.source for price in (found.engine_hour, found.core_hour, found.redis_gb_hour, *found.seats.values())
    )
    assert data.prices(gpu, engine_hour=9.0, core_hour=1.0).engine_hour.price == 9.0


@pytest.mark.parametrize("gpu", GPUS)
def test_every_gpu_has_an_engine(gpu: str) -> None:
    """In its own 8-bit format, with memory for the prompts of many."""
    engine = data.gpu_engine("qwen2.5-coder-1.5b", gpu, None)
    assert engine.warm_prompts > 100
    assert engine.readable_tokens > 200


def test_what_no_plan_is_made_for_has_no_capacity() -> None:
    """FP8 on an A10 is refused with the plan's reason, and a model that is not known by name."""
    with pytest.raises(PlanRefused):
        data.gpu_engine("qwen2.5-coder-1.5b", "a10", Precision.FP8)
    with pytest.raises(SetupError):
        data.gpu_engine("gpt-5", "l4", None)
