"""Decoding: streams, ends, biases, reuse of what has been computed."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from keyahead.engine.contract import BLOCK_TOKENS
from tests.contract.client import Endpoint


def test_a_stream_brings_new_tokens_only(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Its responses together are the answer that comes at once otherwise; none repeats the prompt or what came before."""
    answer = endpoint.ask(prompt, max_new_tokens=9, streaming=True)
    assert answer.tokens == expected
    assert len([delta for delta in answer.deltas if delta]) > 1


@pytest.mark.parametrize("how", ["end_id", "stop_words"])
def test_a_token_ends_the_answer(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...], how: str) -> None:
    """Decoding stops at the end token or stop word; whether that itself is returned is the engine's choice."""
    place = 4
    fields = {"end_id": expected[place]} if how == "end_id" else {"stop_words": ((expected[place],),)}
    answer = endpoint.ask(prompt, max_new_tokens=9, **fields)
    assert answer.tokens in (expected[:place], expected[: place + 1])


def test_each_token_has_its_log_probability(endpoint: Endpoint, prompt: tuple[int, ...]) -> None:
    """Or none has: an engine of TensorRT-LLM for external drafts computes none, and the service does without."""
    answer = endpoint.ask(prompt, max_new_tokens=6, return_log_probs=True)
    if answer.log_probs is not None:
        assert len(answer.log_probs) == len(answer.tokens)
        assert max(answer.log_probs) <= 1e-5


def test_a_bias_decides_the_token(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Token healing rests on it."""
    wanted = expected[0] + 1
    bias = np.full(endpoint.vocab_size, -1e9, dtype=np.float32)
    bias[wanted] = 0
    assert endpoint.ask(prompt, max_new_tokens=1, embedding_bias=bias).tokens == (wanted,)


def test_requests_side_by_side_do_not_mix(endpoint: Endpoint, prompt: tuple[int, ...]) -> None:
    """Four different prompts at once get the answers that each gets alone."""
    prompts = [prompt[place:] for place in range(4)]
    alone = [endpoint.ask(each, max_new_tokens=6).tokens for each in prompts]
    streams = [endpoint.start(each, max_new_tokens=6) for each in prompts]
    assert [stream.finish().tokens for stream in streams] == alone


def test_an_equal_beginning_is_not_computed_again(endpoint: Endpoint) -> None:
    """A new prompt reuses no block; the same again, with another end, reuses those before the end.

    TensorRT-LLM counts a block of which it copies a part, and the first token alone may be that of a prompt before.
    """
    pattern = tuple(secrets.choice(range(300, 3000)) for _ in range(4 * BLOCK_TOKENS))
    cold = endpoint.ask(pattern, max_new_tokens=1, return_perf_metrics=True).perf
    warm = endpoint.ask((*pattern[:-1], 5), max_new_tokens=1, return_perf_metrics=True).perf
    assert cold is not None
    assert warm is not None
    assert cold.reused_blocks <= 1
    assert warm.reused_blocks >= 3
    assert warm.arrival_ns <= warm.first_scheduled_ns <= warm.first_token_ns <= warm.last_token_ns
