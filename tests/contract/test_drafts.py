"""Drafts: verified in one step, accepted up to the first that is not the model's own."""

from __future__ import annotations

import numpy as np
import pytest

from keyahead.engine.trtllm.rules import TESTED_DRAFTS as DRAFTS
from tests.contract.client import Endpoint, good_tensors

pytestmark = pytest.mark.drafts

TOO_MANY = 200
"""More than any engine of ours is built for."""


@pytest.mark.parametrize("wrong", range(DRAFTS + 1))
def test_drafts_count_up_to_the_first_wrong_one(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...], wrong: int) -> None:
    """The answer is the right drafts and one token of the model, whatever follows the wrong one; the last case has none."""
    drafts = list(expected[:DRAFTS])
    if wrong < DRAFTS:
        drafts[wrong] += 1
    answer = endpoint.ask(prompt, draft_ids=tuple(drafts), max_new_tokens=DRAFTS + 1, return_perf_metrics=True)
    assert answer.tokens == expected[: wrong + 1]
    assert answer.perf is not None
    assert (answer.perf.drafts, answer.perf.accepted_drafts) == (DRAFTS, wrong)


def test_a_request_with_drafts_ends_after_one_step(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """However much it asks for, it gets the drafts and one token."""
    assert endpoint.ask(prompt, draft_ids=expected[:3], max_new_tokens=50).tokens == expected[:4]


def test_drafts_give_no_more_than_asked_for(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """A small request_output_len caps what is accepted."""
    assert endpoint.ask(prompt, draft_ids=expected[:DRAFTS], max_new_tokens=3).tokens == expected[:3]


def test_a_request_without_drafts_decodes_on(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """No drafts is no step of verification: it gets all it asks for."""
    assert endpoint.ask(prompt, draft_ids=(), max_new_tokens=9).tokens == expected


def test_too_many_drafts_are_an_error_that_says_so(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """The error speaks of drafts, and the engine goes on."""
    stream = endpoint.open()
    stream.send(good_tensors(prompt) | {"draft_input_ids": np.array([(prompt * 3)[:TOO_MANY]], np.int32)})
    answer = stream.finish()
    assert "draft" in answer.error.lower()
    assert not answer.tokens
    assert endpoint.ask(prompt, max_new_tokens=9).tokens == expected


def test_wrong_drafts_leave_no_trace(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """After rejected drafts the same prompt still gives the same answer."""
    endpoint.ask(prompt, draft_ids=tuple(reversed(expected[:DRAFTS])), max_new_tokens=DRAFTS + 1)
    assert endpoint.ask(prompt, max_new_tokens=9).tokens == expected
