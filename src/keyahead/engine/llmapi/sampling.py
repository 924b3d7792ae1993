"""What a request of the contract means to the LLM API, and what it cannot give.

Field names are those of `tensorrt_llm.SamplingParams` 1.2 (tensorrt_llm/sampling_params.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keyahead.engine.contract import ContractError, EngineRequest

NO_END = -1
"""The end token of a request that has none."""
SETTINGS = (
    *("max_tokens", "end_id", "ignore_eos", "pad_id", "stop_token_ids", "embedding_bias", "top_k", "top_p", "temperature"),
    *("logprobs", "return_perf_metrics", "detokenize"),
)
"""Fields that `settings` sets."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted."""

    vocab_size: int
    max_seq_len: int
    """Tokens of prompt and answer."""
    max_requests: int
    """At work and waiting."""


def settings(request: EngineRequest, limits: Limits) -> dict[str, Any]:
    """The fields of `SamplingParams`; ContractError names what cannot be honoured.

    Class and weight of the work are ignored: requests are served in the order in which they come.
    """
    _require_possible(request, limits)
    _require_honoured(request)
    greedy = request.top_k == 1
    return {
        "max_tokens": request.max_new_tokens,
        # Without a tokenizer the LLM API wants an end token, and ignore_eos keeps it from meaning anything.
        "end_id": NO_END if request.end_id is None else request.end_id,
        "ignore_eos": request.end_id is None,
        "pad_id": request.pad_id,
        "stop_token_ids": [token for (token,) in request.stop_words] or None,
        "embedding_bias": request.embedding_bias,
        "top_k": request.top_k,
        "top_p": request.top_p if request.top_p > 0 else None,
        "temperature": None if greedy else request.temperature,
        "logprobs": 1 if request.return_log_probs else None,
        "return_perf_metrics": request.return_perf_metrics,
        "detokenize": False,
    }


def _require_possible(request: EngineRequest, limits: Limits) -> None:
    """No engine could do more; a token beyond the vocabulary would crash this one."""
    if not request.input_ids:
        raise ContractError("input_ids: empty, expected at least one token")
    if bad := [token for token in request.input_ids if not 0 <= token < limits.vocab_size]:
        raise ContractError(f"input_ids: token {bad[0]} is not in the vocabulary of {limits.vocab_size}")
    if request.max_new_tokens < 1:
        raise ContractError(f"request_output_len: {request.max_new_tokens}, expected at least 1")
    if (total := len(request.input_ids) + request.max_new_tokens) > limits.max_seq_len:
        raise ContractError(f"input_ids: prompt and output make {total} tokens, the engine is set up for {limits.max_seq_len}")
    if request.embedding_bias is not None and request.embedding_bias.size != limits.vocab_size:
        raise ContractError(f"embedding_bias: {request.embedding_bias.size} values, expected one for each of {limits.vocab_size} tokens")


def _require_honoured(request: EngineRequest) -> None:
    """What the contract allows and the LLM API has not."""
    if request.draft_ids:
        raise ContractError("draft_input_ids: this engine drafts by itself and verifies no others: set the service's KEYAHEAD_MAX_DRAFTS=0")
    if request.lora_task_id is not None:
        raise ContractError("lora_task_id: the LLM API loads adapters from files: merge the adapter into the weights")
    if any(len(word) != 1 for word in request.stop_words):
        raise ContractError("stop_words_list: the LLM API takes single tokens only: watch for longer words yourself")
    # Its sampler looks for a biased request's rows at the request's place in the batch, which is right only as long as none before it has
    # drafts (tensorrt_llm/_torch/pyexecutor/sampler.py, _apply_embedding_bias): so in the prefill, which comes first and has none.
    if request.embedding_bias is not None and request.max_new_tokens != 1:
        raise ContractError("embedding_bias: beside the engine's own drafts it is sure for one token only: ask for request_output_len 1")
    if request.top_k != 1 and request.return_log_probs:
        raise ContractError("return_log_probs: the LLM API gives those of the likeliest token: ask with runtime_top_k 1")
    if request.top_k != 1 and request.seed:
        raise ContractError("seed: the LLM API has one seed for all requests: leave it out")
