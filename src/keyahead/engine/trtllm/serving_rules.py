"""The traps of serving an engine with the `tensorrtllm` backend, each a rule over its parameters."""

from __future__ import annotations

from keyahead.engine.trtllm import flags
from keyahead.engine.trtllm.proposal import Proposal
from keyahead.engine.trtllm.verdicts import Refusal, Verdict, rule

_CONFIG = "TensorRT-LLM triton_backend inflight_batcher_llm/tensorrt_llm/config.pbtxt"
_BACKEND = "TensorRT-LLM triton_backend/inflight_batcher_llm/src/model_instance_state.cc"
_MODEL = "TensorRT-LLM cpp/tensorrt_llm/batch_manager/trtGptModelInflightBatching.cpp"
_STATE = "TensorRT-LLM triton_backend/inflight_batcher_llm/src/model_state.cc: GetParameter"
_MAX_CANCEL_PERIOD_MS = 10
_GUIDED = ("tokenizer_dir", "xgrammar_tokenizer_info_path", "guided_decoding_backend")


@rule(_CONFIG)
def known_parameters(proposal: Proposal) -> Verdict:
    """The backend ignores what it does not know, so a mistyped key would change nothing."""
    if paths := {"gpt_model_path", "encoder_model_path"} & proposal.serving.keys():
        return Refusal(f"{min(paths)} is the repository's own to write: leave it out, and use --work")
    unknown = proposal.serving.keys() - flags.PARAMETERS
    return Refusal(f"The backend has no parameter {min(unknown)}: leave it out or mend its name") if unknown else None


@rule(_STATE)
def values_can_be_read(proposal: Proposal) -> Verdict:
    """For a value that the backend cannot read it takes its default, with no more than a warning; of 2GB it reads 2."""
    for key, value in proposal.serving.items():
        if key in flags.PARAMETER_SWITCHES and value not in {"true", "false"}:
            return Refusal(f"{key} is {value!r}: give true or false")
        if key in flags.PARAMETER_COUNTS and not value.isdecimal():
            return Refusal(f"{key} is {value!r}: give a whole number")
    if proposal.serving.get("batch_scheduler_policy") not in flags.POLICIES:
        return Refusal(f"batch_scheduler_policy must be {' or '.join(sorted(flags.POLICIES))}: leave it out")
    return None


@rule(_BACKEND + ": getGuidedDecodingConfigFromParams")
def decoding_is_not_guided(proposal: Proposal) -> Verdict:
    """The contract has no tensor for a guide; and without the keys, even empty, the model is not loaded."""
    for key in _GUIDED:
        if proposal.serving.get(key) != "":
            return Refusal(f"{key} is for guided decoding, which the contract does not have: leave it out")
    return None


@rule("triton-inference-server/server issue 8592: a placeholder that was not filled")
def nothing_left_to_fill(proposal: Proposal) -> Verdict:
    """NVIDIA's template has ${…}; ours is written whole."""
    open_keys = [key for key, value in proposal.serving.items() if "${" in value]
    return Refusal(f"The parameter {open_keys[0]} is still a placeholder: give a value") if open_keys else None


@rule(_CONFIG)
def batches_in_flight(proposal: Proposal) -> Verdict:
    """The parameter is mandatory, and its other values wait for a whole batch."""
    if proposal.serving.get("gpt_model_type") == "inflight_fused_batching":
        return None
    return Refusal("gpt_model_type must be inflight_fused_batching, or requests would wait for each other: leave it out")


@rule(_BACKEND)
def gives_only_new_tokens(proposal: Proposal) -> Verdict:
    """The service's decoding takes every token for a new one."""
    if proposal.serving.get("exclude_input_in_output") == "true":
        return None
    return Refusal("exclude_input_in_output must be true, or answers would begin with the prompt: leave it out")


@rule(_MODEL)
def reuses_kv(proposal: Proposal) -> Verdict:
    """Both are the backend's default, and with drafts, or with paged-context FMHA, it does not start without them."""
    for key in ("enable_kv_cache_reuse", "kv_cache_onboard_blocks"):
        if proposal.serving.get(key, "true") != "true":
            return Refusal(f"{key} must be true, or every key reads the whole prompt anew: leave it out")
    return None


@rule(_BACKEND)
def cancels_soon(proposal: Proposal) -> Verdict:
    """The default, 100 ms, is half of the latency objective."""
    period = proposal.serving.get("cancellation_check_period_ms", "100")
    if period.isdecimal() and 1 <= int(period) <= _MAX_CANCEL_PERIOD_MS:
        return None
    return Refusal(f"cancellation_check_period_ms is {period}, and cancelled requests would compute on: give 1 to {_MAX_CANCEL_PERIOD_MS}")


@rule(_CONFIG)
def leaves_memory(proposal: Proposal) -> Verdict:
    """A share of what the weights leave."""
    try:
        fraction = float(proposal.serving.get("kv_cache_free_gpu_mem_fraction", "0.9"))
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        return Refusal("kv_cache_free_gpu_mem_fraction must be between 0 and 1, such as 0.9")
    if proposal.kv_limit is not None and proposal.kv_limit < proposal.max_seq_len:
        return Refusal(f"max_tokens_in_paged_kv_cache is less than one sequence's {proposal.max_seq_len} tokens: raise it")
    return None


@rule("TensorRT-LLM cpp/tensorrt_llm/layers/externalDraftTokensLayer.cpp")
def drafts_choose_the_decoder(proposal: Proposal) -> Verdict:
    """An engine for external drafts has its own sampling layer."""
    if not proposal.drafts or not proposal.serving.get("decoding_mode"):
        return None
    return Refusal("decoding_mode does not go with external drafts: leave it out")


@rule("TensorRT-LLM cpp/tensorrt_llm/batch_manager/microBatchScheduler.cpp: fitDraftTokens")
def chunks_cost_drafts(proposal: Proposal) -> Verdict:
    """Whenever the prompts at hand exceed a step, drafts lose what would begin another block, down to none."""
    if not proposal.drafts or proposal.serving.get("enable_chunked_context", "false") == "false":
        return None
    return Refusal("enable_chunked_context makes a busy engine discard drafts that go beyond the prompt's last block: leave it out")


@rule(_MODEL)
def chunks_need_paged_context(proposal: Proposal) -> Verdict:
    """A chunk attends to KV that lies in pages already."""
    if proposal.serving.get("enable_chunked_context") != "true" or proposal.build.get("use_paged_context_fmha") == "enable":
        return None
    return Refusal("enable_chunked_context needs an engine with --use_paged_context_fmha enable: set either")


@rule("arithmetic of the network's sizes and the GPU's memory")
def fits_into_memory(proposal: Proposal) -> Verdict:
    """At least one whole sequence must fit beside the weights."""
    memory = proposal.memory
    if memory.kv_tokens >= proposal.max_seq_len:
        return None
    needed = (memory.weights + memory.activations) / 1e9
    return Refusal(
        f"Weights and buffers take about {needed:.1f} of {proposal.gpu.memory_bytes / 1e9:.0f} GB and leave no room for one sequence's KV: "
        "choose a smaller precision or model, or lower --max_batch_size or --max_num_tokens"
    )


SERVING_RULES = (
    known_parameters,
    values_can_be_read,
    decoding_is_not_guided,
    nothing_left_to_fill,
    batches_in_flight,
    gives_only_new_tokens,
    reuses_kv,
    cancels_soon,
    leaves_memory,
    drafts_choose_the_decoder,
    chunks_cost_drafts,
    chunks_need_paged_context,
)
MEMORY_RULES = (fits_into_memory,)
"""Judged last, on figures that the others have found to be sound."""
