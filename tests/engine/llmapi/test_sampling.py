"""What a request means to the LLM API; what it cannot give is refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine.contract import ContractError, EngineRequest
from keyahead.engine.llmapi.sampling import SETTINGS, Limits, settings

LIMITS = Limits(vocab_size=100, max_seq_len=64, max_requests=8)
SAID = {
    "max_tokens": 1,
    "end_id": -1,
    "ignore_eos": True,
    "pad_id": None,
    "stop_token_ids": None,
    "embedding_bias": None,
    "top_k": 1,
    "top_p": None,
    "temperature": None,
    "logprobs": None,
    "return_perf_metrics": False,
    "detokenize": False,
}
"""Of a request that says nothing but its prompt."""


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({}, {}),
        ({"max_new_tokens": 9}, {"max_tokens": 9}),
        ({"end_id": 7, "pad_id": 8}, {"end_id": 7, "ignore_eos": False, "pad_id": 8}),
        ({"stop_words": ((3,), (5,))}, {"stop_token_ids": [3, 5]}),
        ({"top_k": 0, "top_p": 0.9, "temperature": 0.5}, {"top_k": 0, "top_p": 0.9, "temperature": 0.5}),
        ({"top_k": 1, "temperature": 0.5, "seed": 4}, {}),
        ({"return_log_probs": True, "return_perf_metrics": True}, {"logprobs": 1, "return_perf_metrics": True}),
    ],
)
def test_each_field_has_its_name_there(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    """A greedy request is greedy whatever else it says; one without an end token has none there, either."""
    assert settings(EngineRequest((1, 2), **fields), LIMITS) == SAID | changed


def test_all_that_is_set_is_listed() -> None:
    """The preflight looks for each in the container."""
    assert tuple(settings(EngineRequest((1,)), LIMITS)) == SETTINGS


def test_every_field_of_a_request_has_been_thought_of() -> None:
    """Who adds one to the contract decides here whether the LLM API honours it, refuses it or may ignore it (docs/adr/0015)."""
    settled = {"input_ids", "max_new_tokens", "end_id", "pad_id", "top_k", "top_p", "temperature", "return_perf_metrics"}
    checked = {"draft_ids", "stop_words", "embedding_bias", "return_log_probs", "seed", "lora_task_id"}
    elsewhere = {"streaming", "stop", "exclude_input", "deadline_ms", "namespace"}
    ignored = {"work_class", "weight", "lora_weights", "lora_config"}
    assert {each.name for each in dataclasses.fields(EngineRequest)} == settled | checked | elsewhere | ignored


def test_a_bias_goes_along_with_the_first_token() -> None:
    """Token healing asks for one token."""
    bias = np.zeros(100, np.float32)
    assert settings(EngineRequest((1,), embedding_bias=bias), LIMITS)["embedding_bias"] is bias


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"draft_ids": (3,)}, "draft_input_ids: .*KEYAHEAD_MAX_DRAFTS=0"),
        ({"lora_task_id": 1}, "lora_task_id: .*from files"),
        ({"stop_words": ((3, 4),)}, "stop_words_list: .*single tokens"),
        ({"embedding_bias": np.zeros(100, np.float32), "max_new_tokens": 2}, "embedding_bias: .*one token only"),
        ({"embedding_bias": np.zeros(99, np.float32)}, "embedding_bias: 99 values"),
        ({"top_k": 5, "return_log_probs": True}, "return_log_probs: .*runtime_top_k 1"),
        ({"top_k": 5, "seed": 3}, "seed: .*one seed"),
        ({"input_ids": ()}, "input_ids: empty"),
        ({"input_ids": (1, 100)}, "input_ids: token 100"),
        ({"max_new_tokens": 0}, "request_output_len: 0"),
        ({"max_new_tokens": 63}, "input_ids: prompt and output make 65 tokens"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], reason: str) -> None:
    """None of it is dropped, which would give another answer than was asked for."""
    with pytest.raises(ContractError, match=rf"^{reason}"):
        settings(EngineRequest(**{"input_ids": (1, 2), **fields}), LIMITS)


@given(tokens=st.integers(1, 70), most=st.integers(1, 70))
def test_what_is_accepted_fits(tokens: int, most: int) -> None:
    """Prompt and answer together; TensorRT-LLM would cut the answer."""
    request = EngineRequest((1,) * tokens, most)
    if tokens + most <= LIMITS.max_seq_len:
        assert settings(request, LIMITS)["max_tokens"] == most
    else:
        with pytest.raises(ContractError, match=r"^input_ids: "):
            settings(request, LIMITS)
