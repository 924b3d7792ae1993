"""A proposal for the LLM API (PyTorch) of the same container: the arguments of `LLM`, and the traps that are its own.

Sources: TensorRT-LLM's `tensorrt_llm/llmapi/llm_args.py` (TorchLlmArgs, KvCacheConfig, NGramDecodingConfig) and its documents,
`features/quantization` and `features/speculative-decoding`. `keyahead engine preflight` compares names with the container's own.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyahead.engine.trtllm import flags, rules, serving_rules
from keyahead.engine.trtllm.precision import KvCache, Precision
from keyahead.engine.trtllm.proposal import Limits, Proposal
from keyahead.engine.trtllm.verdicts import Refusal, Verdict, rule

_MATCHED_TOKENS = 3
"""Of the text's end, looked for further up: NVIDIA's example has as many."""
_QUANTIZATION = "TensorRT-LLM docs: features/quantization"


def options(limits: Limits) -> dict[str, str]:
    """The arguments of `LLM` that are called like options of `trtllm-build`, and so judged alike."""
    return {
        "max_batch_size": str(limits.max_batch_size),
        "max_num_tokens": str(limits.max_num_tokens),
        "max_seq_len": str(limits.max_input + limits.max_output),
        "max_draft_len": str(limits.max_drafts),
    }


def arguments(proposal: Proposal, model: str) -> dict[str, object]:
    """Those of `LLM`, for a checkpoint that the server sees in the folder `model`."""
    drafting = {"max_draft_len": proposal.drafts, "max_matching_ngram_size": _MATCHED_TOKENS}
    # A public pool would keep every tenant's text for ever, and draft from it for the others.
    private = {"is_public_pool": False}
    return {
        "model": model,
        "backend": "pytorch",
        "skip_tokenizer_init": True,
        **{name: proposal.number(name) for name in ("max_batch_size", "max_num_tokens", "max_seq_len")},
        "enable_chunked_prefill": True,
        "disable_overlap_scheduler": True,  # Drafts by n-grams do not go with it (examples/llm-api/llm_speculative_decoding.py).
        "kv_cache_config": {
            "enable_block_reuse": True,
            "free_gpu_memory_fraction": float(proposal.serving["kv_cache_free_gpu_mem_fraction"]),
            "host_cache_size": int(proposal.serving["kv_cache_host_memory_bytes"]),
        },
        **({"speculative_config": drafting | private} if proposal.drafts else {}),
    }


SERVING: Mapping[str, str] = {name: flags.SERVING[name] for name in ("kv_cache_free_gpu_mem_fraction", "kv_cache_host_memory_bytes")}
"""By the names that they have in the C++ backend."""


@rule(_QUANTIZATION)
def formats_of_pytorch(proposal: Proposal) -> Verdict:
    """Its list has FP8, FP4, W4A16 and W4A8."""
    if proposal.precision is not Precision.INT8_SQ:
        return None
    return Refusal("The LLM API's PyTorch backend has no INT8 SmoothQuant: choose int4-awq, or fp8 where the GPU has it")


@rule(_QUANTIZATION)
def no_int8_kv_cache_in_pytorch(proposal: Proposal) -> Verdict:
    """KvCacheConfig.dtype has auto, fp8 and nvfp4."""
    if proposal.kv_cache is not KvCache.INT8:
        return None
    return Refusal("The LLM API's PyTorch backend has no INT8 KV cache: keep it in 16 bits")


@rule("TensorRT-LLM docs: LLM API, LoRARequest")
def no_adapters(proposal: Proposal) -> Verdict:
    """It loads adapters from files, and our model takes them with requests."""
    if not proposal.has_adapters:
        return None
    return Refusal("The LLM API's model takes no adapters with requests: merge the adapter into the weights, or choose --runtime tensorrt")


RULES = (
    no_adapters,
    rules.licence,
    rules.fp8_needs_ada,
    rules.no_fp8_kv_cache,
    no_int8_kv_cache_in_pytorch,
    formats_of_pytorch,
    rules.sequence_holds_prompt_and_answer,
)
MEMORY_RULES = serving_rules.MEMORY_RULES
