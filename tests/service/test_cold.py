"""What is cold, and what is asked instead of a prompt that cannot be read in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine import catalogue
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.cold import Planner, PrefillRate, ReadPrompts
from keyahead.service.model import Query
from keyahead.service.prompt import PromptBuilder

TEXT = "".join(f"value_{i} = compute(value_{i - 1}, {i})\n" for i in range(60))

tokens = st.lists(st.integers(0, 50_000), max_size=100)


@given(tokens, tokens, tokens)
def test_the_estimate_is_never_below_what_is_new(common: list[int], old: list[int], new: list[int]) -> None:
    """Cold is at least what lies behind the common beginning, and at most 15 tokens more; another tenant's is all cold."""
    read = ReadPrompts()
    read.add("a", common + old)
    shared = next(
        (i for i, (x, y) in enumerate(zip(common + old, common + new, strict=False)) if x != y), min(len(common + old), len(common + new))
    )
    cold = read.cold_tokens("a", common + new)
    assert len(common + new) - shared <= cold <= len(common + new) - shared + 15
    assert read.cold_tokens("b", common + new) == len(common + new)


def test_the_rate_is_learned_from_long_prompts_only() -> None:
    """Unknown at first, then what was seen, smoothed; a prompt that was warm after all changes little."""
    rate = PrefillRate()
    for tokens in (8, 41):  # A step and a call, whatever the prompt.
        rate.observe(tokens, 0.2)
    assert rate.seconds(500) == 0.0
    rate.observe(500, 1.0)
    assert rate.seconds(500) == 1.0
    rate.observe(500, 0.01)
    assert rate.seconds(500) == pytest.approx(0.8, abs=0.01)
    assert rate.tokens(0.8) == pytest.approx(500, abs=5)


def planner(tokenizer: Tokenizer, tokens_per_s: float | None) -> tuple[Planner, ReadPrompts]:
    read, rate = ReadPrompts(), PrefillRate()
    rate.s_per_token = tokens_per_s and 1 / tokens_per_s
    return Planner(PromptBuilder(catalogue.get("smollm2-135m"), tokenizer), read, rate), read


def test_a_cold_prompt_is_shortened_to_what_can_be_read_in_half_the_time(tokenizer: Tokenizer) -> None:
    """The nearest lines are kept, the whole prompt is to be read behind it, and once it has been it is asked."""
    plans, read = planner(tokenizer, 500.0)
    plan = plans.plan(Query(TEXT, ""), 0.16)
    assert plan.prompt.shortened
    assert 20 <= len(plan.prompt.tokens) <= 40
    assert TEXT.endswith(tokenizer.decode(plan.prompt.tokens) + plan.prompt.healed.decode())
    assert plan.behind is not None
    assert len(plan.behind.tokens) > 500
    read.add("default", plan.behind.tokens)
    again = plans.plan(Query(TEXT + "val", ""), 0.16)
    assert not again.prompt.shortened
    assert again.behind is None


def test_before_an_engine_has_been_seen_to_read_a_usual_rate_is_assumed(tokenizer: Tokenizer) -> None:
    """Or the first cold prompts would all be answered with nothing; but nothing is predicted from it."""
    plan = planner(tokenizer, None)[0].plan(Query(TEXT, ""), 0.16)
    assert plan.prompt.shortened
    assert plan.cold_s == 0


def test_nothing_is_shortened_where_there_is_time(tokenizer: Tokenizer) -> None:
    """Asked for by hand with seconds to go, on a fast engine, and on one that could not read three lines."""
    for tokens_per_s, seconds in ((500.0, 10.0), (50_000.0, 0.16), (100.0, 0.16)):
        plan = planner(tokenizer, tokens_per_s)[0].plan(Query(TEXT, ""), seconds)
        assert not plan.prompt.shortened
        assert plan.behind is None
