"""How long a step takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.capacity.steps import MeasuredSteps, RooflineSteps
from keyahead.engine.trtllm import gpus, networks, roofline
from keyahead.engine.trtllm.precision import Precision

MEASURED = MeasuredSteps((1.0, 8.0, 64.0), (0.03, 0.04, 0.14))
PAIRS = [("qwen2.5-coder-1.5b", "l4", Precision.FP8), ("qwen2.5-coder-7b", "h100", Precision.BF16)]


def steps(model: str, gpu: str, precision: Precision) -> RooflineSteps:
    """Of a model on a GPU."""
    return RooflineSteps(networks.get(model), gpus.get(gpu), precision)


def test_a_measured_step_takes_what_was_measured() -> None:
    """At a measured size exactly; between two on the line, and beyond the last on the same line."""
    assert [MEASURED(tokens, 1) for tokens in MEASURED.tokens] == pytest.approx(MEASURED.seconds)
    assert MEASURED(36, 1) == pytest.approx((0.04 + 0.14) / 2)
    assert MEASURED(120, 1) == pytest.approx(0.24)
    assert MEASURED(0.5, 1) == pytest.approx(0.03)


@pytest.mark.parametrize("pair", PAIRS)
def test_one_decoded_token_takes_what_the_plan_says(pair: tuple[str, str, Precision]) -> None:
    """A step of one sequence is the roofline's decode step, and one of a whole prompt its prefill, but for the prompt's attention."""
    latency = roofline.latency(networks.get(pair[0]), gpus.get(pair[1]), pair[2])
    assert steps(*pair)(1, 1) == pytest.approx(latency.step)
    assert steps(*pair)(roofline.PROMPT_TOKENS, 1) == pytest.approx(latency.prefill, rel=0.05)


@given(st.sampled_from(PAIRS), st.integers(1, 4000), st.integers(1, 64), st.integers(0, 500), st.integers(0, 8))
def test_more_work_never_takes_less(pair: tuple[str, str, Precision], tokens: int, sequences: int, more: int, beside: int) -> None:
    """Neither more tokens nor more sequences make a step shorter, on either kind of engine."""
    tokens = max(tokens, sequences)
    for each in (steps(*pair), MEASURED):
        assert each(tokens + more + beside, sequences + beside) >= each(tokens, sequences)
