"""Each trap of TensorRT-LLM is refused or corrected, with a reason and its source."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from keyahead.engine.store import SetupError
from keyahead.engine.trtllm import flags, gpus, networks
from keyahead.engine.trtllm.lora_rules import LORA_MEMORY_RULES, LORA_RULES
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import KvCache, Precision
from keyahead.engine.trtllm.proposal import Limits, Lora, Proposal
from keyahead.engine.trtllm.rules import BUILD_RULES, blackwell_has_no_integer_formats
from keyahead.engine.trtllm.serving_rules import MEMORY_RULES, SERVING_RULES
from keyahead.engine.trtllm.verdicts import PlanRefused, Refusal

ALL = {rule.name: rule for rule in (*BUILD_RULES, *LORA_RULES, *SERVING_RULES, *LORA_MEMORY_RULES, *MEMORY_RULES)}
GOOD: dict[str, Any] = {"model": "qwen2.5-coder-1.5b", "gpu": "l4", "precision": Precision.FP8}

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("licence", {"model": "qwen2.5-coder-3b"}, "research only"),
    ("known-options", {"build": {"max_batchsize": "8"}}, "no option --max_batchsize"),
    ("known-options", {"build": {"auto_parallel": "2"}}, "no --auto_parallel any more"),
    ("known-options", {"build": {"max_decoder_seq_len": "9000"}}, "another name of --max_seq_len"),
    ("known-options", {"build": {"output_dir": "/tmp"}}, "build's own to choose"),
    ("known-options", {"build": {"build_config": "/tmp/config.json"}}, "ignore the options that rules have judged"),
    ("known-values", {"build": {"gemm_plugin": "fp7"}}, "'fp7': give one of auto"),
    ("known-values", {"build": {"lora_plugin": "fp8"}}, "'fp8': give one of auto"),
    ("known-values", {"build": {"reduce_fusion": "true"}}, "'true': give enable or disable"),
    ("known-values", {"build": {"workers": ""}}, "--workers has no value"),
    ("known-values", {"build": {"fast_build": "enable"}}, "--fast_build takes no value"),
    ("whole-numbers", {"build": {"max_seq_len": "long"}}, "'long'"),
    ("whole-numbers", {"build": {"max_batch_size": "0"}}, "'0'"),
    ("fp8-needs-ada", {"gpu": "a10"}, "a10 has 8.6"),
    ("fp8-needs-ada", {"gpu": "a100"}, "a100 has 8.0"),
    ("no-fp8-kv-cache", {"kv_cache": KvCache.FP8}, "wrong text with Qwen2.5"),
    ("no-mixed-fp8-kv-cache", {"kv_cache": KvCache.FP8, "precision": Precision.INT4_AWQ}, "paged-context FMHA off"),
    ("no-int8-kv-cache", {"kv_cache": KvCache.INT8}, "no prompt would reuse"),
    ("one-kind-of-speculation", {"build": {"speculative_decoding_mode": "lookahead_decoding"}}, "lookahead_decoding takes no drafts"),
    ("one-kind-of-speculation", {"build": {"max_draft_len": "8"}, "limits": Limits(max_drafts=0)}, "go together"),
    ("drafts-fit", {"build": {"max_draft_len": "8"}}, "up to 24 drafts.*more than 8"),
    ("drafts-can-be-tested", {"limits": Limits(max_drafts=7)}, "verify 8 drafts at once"),
    ("what-drafts-and-reuse-need", {"build": {"kv_cache_type": "continuous"}}, "need paged"),
    ("what-drafts-and-reuse-need", {"build": {"use_paged_context_fmha": "disable"}}, "need enable"),
    ("what-drafts-and-reuse-need", {"build": {"max_beam_width": "4"}}, "need 1"),
    ("blocks-are-the-contracts", {"build": {"tokens_per_block": "64"}}, "is 64, and the contract's blocks have 32"),
    ("logits-are-fp32", {"build": {"logits_dtype": "float16"}}, "embedding_bias is FP32"),
    ("no-context-logits-with-drafts", {"build": {"gather_context_logits": ""}}, "does not go with drafts"),
    ("no-context-logits-with-drafts", {"build": {"gather_all_token_logits": ""}}, "does not go with drafts"),
    ("profiles-choose-their-tokens", {"build": {"opt_num_tokens": "256"}}, "--opt_num_tokens"),
    ("batch-size-is-chosen", {"build": {"max_batch_size": "2048"}}, "51200 tokens"),
    ("sequence-holds-prompt-and-answer", {"build": {"max_seq_len": "4096"}}, "4096 is less than 4096 \\+ 256"),
    ("sequence-holds-prompt-and-answer", {"limits": Limits(max_input=32768)}, "32768 positions"),
    ("only-what-suits-qwen", {"build": {"streamingllm": "enable"}}, "not supported any more"),
    ("only-what-suits-qwen", {"build": {"pp_reduce_scatter": "enable"}}, "for Mixtral only"),
    ("only-what-suits-qwen", {"build": {"gemm_swiglu_plugin": "fp8"}}, "FP8 on Hopper"),
    ("known-parameters", {"serving": {"enable_trt_overlap": "true"}}, "no parameter enable_trt_overlap"),
    ("known-parameters", {"serving": {"gpt_model_path": "/engine"}}, "repository's own to write"),
    ("values-can-be-read", {"serving": {"kv_cache_host_memory_bytes": "2GB"}}, "'2GB': give a whole number"),
    ("values-can-be-read", {"serving": {"cuda_graph_mode": "on"}}, "'on': give true or false"),
    ("values-can-be-read", {"serving": {"batch_scheduler_policy": "max_utilisation"}}, "guaranteed_no_evict or max_utilization"),
    ("decoding-is-not-guided", {"serving": {"guided_decoding_backend": "xgrammar"}}, "guided_decoding_backend is for guided decoding"),
    ("nothing-left-to-fill", {"serving": {"lora_prefetch_dir": "${lora_prefetch_dir}"}}, "placeholder"),
    ("batches-in-flight", {"serving": {"gpt_model_type": "V1"}}, "inflight_fused_batching"),
    ("gives-only-new-tokens", {"serving": {"exclude_input_in_output": "false"}}, "begin with the prompt"),
    ("reuses-kv", {"serving": {"enable_kv_cache_reuse": "false"}}, "whole prompt anew"),
    ("reuses-kv", {"serving": {"kv_cache_onboard_blocks": "false"}}, "kv_cache_onboard_blocks must be true"),
    ("cancels-soon", {"serving": {"cancellation_check_period_ms": "100"}}, "1 to 10"),
    ("leaves-memory", {"serving": {"kv_cache_free_gpu_mem_fraction": "1.5"}}, "between 0 and 1"),
    ("leaves-memory", {"serving": {"max_tokens_in_paged_kv_cache": "4000"}}, "less than one sequence's 4376 tokens"),
    ("drafts-choose-the-decoder", {"serving": {"decoding_mode": "top_k"}}, "external drafts"),
    ("chunks-cost-drafts", {"serving": {"enable_chunked_context": "true"}}, "discard drafts"),
    (
        "chunks-need-paged-context",
        {"build": {"use_paged_context_fmha": "disable"}, "serving": {"enable_chunked_context": "true"}, "limits": Limits(max_drafts=0)},
        "enable_chunked_context needs",
    ),
    ("adapters-need-their-plugin", {"build": {"max_lora_rank": "8"}}, "--max_lora_rank does nothing"),
    ("adapters-change-known-modules", {"lora": Lora(8, ("qkv_proj",))}, "no module qkv_proj"),
    ("adapters-change-known-modules", {"lora": Lora(8), "build": {"max_lora_rank": "0"}}, "a rank from 1"),
    ("adapters-have-the-models-type", {"lora": Lora(8), "precision": Precision.BF16}, "choose fp16"),
    ("adapters-have-the-models-type", {"lora": Lora(8), "build": {"lora_plugin": "bfloat16"}}, "--lora_plugin is bfloat16"),
    ("smoothquant-takes-no-adapters", {"lora": Lora(8), "precision": Precision.INT8_SQ}, "SmoothQuant's layers"),
    ("no-adapter-is-built-in", {"lora": Lora(8), "build": {"lora_dir": "/adapter"}}, "--lora_dir makes an engine for one"),
    ("no-dora", {"lora": Lora(8), "build": {"dora_plugin": "enable"}}, "train a plain LoRA"),
    ("adapters-are-not-prefetched", {"lora": Lora(8), "serving": {"lora_prefetch_dir": "/adapters"}}, "by digest"),
    ("caches-hold-an-adapter", {"lora": Lora(8), "serving": {"lora_cache_host_memory_bytes": "1000000"}}, "raise lora_cache_host"),
    ("caches-hold-an-adapter", {"lora": Lora(64), "serving": {"lora_cache_gpu_memory_fraction": "0.001"}}, "has 20 MB.*takes 148"),
    ("fits-into-memory", {"model": "qwen2.5-coder-7b", "precision": Precision.BF16, "limits": Limits(max_num_tokens=500_000)}, "of 24 GB"),
    ("fits-into-memory", {"limits": Limits(max_batch_size=1024)}, "of 24 GB"),
]

CORRECTED: list[tuple[str, dict[str, Any], dict[str, str | None]]] = [
    (
        "queries-keys-and-values-together",
        {"lora": Lora(8, ("q_proj", "v_proj", "down_proj"))},
        {"lora_target_modules": "attn_q attn_k attn_v mlp_4h_to_h"},
    ),
    ("graphs-hold-no-adapter", {"lora": Lora(8)}, {"cuda_graph_mode": None}),
    ("fp8-context-fmha-follows-the-kv-cache", {}, {"use_fp8_context_fmha": "disable"}),
    ("no-deprecated-options", {"build": {"gather_generation_logits": "", "paged_kv_cache": "enable"}}, {"gather_generation_logits": None}),
    ("step-holds-all-drafts", {"gpu": "h100", "build": {"max_batch_size": "512"}}, {"max_num_tokens": "12800"}),
    (
        "step-holds-a-prompt",
        {"limits": Limits(max_num_tokens=2048)},
        {"max_num_tokens": "4120"},
    ),
]


def make(**changes: Any) -> Plan:
    """A good plan with something changed."""
    return Plan.make(**{**GOOD, **changes})


@pytest.mark.parametrize(("name", "changes", "reason"), REFUSED)
def test_a_trap_is_refused(name: str, changes: dict[str, Any], reason: str) -> None:
    """By the rule that is about it, with the reason, and with the source in the message."""
    with pytest.raises(PlanRefused, match=reason) as caught:
        make(**changes)
    assert f"[{name}: {ALL[name].source}]." in str(caught.value)


@pytest.mark.parametrize(("name", "changes", "options"), CORRECTED)
def test_a_trap_is_corrected(name: str, changes: dict[str, Any], options: dict[str, str | None]) -> None:
    """The command that would be run has the better option, and a note says why."""
    plan = make(**changes)
    for option, value in options.items():
        assert plan.proposal.build.get(option) == value
        assert (f"--{option}" in plan.build_command) == (value is not None)
    assert any(f"[{name}: {ALL[name].source}]." in note for note in plan.notes)


def test_every_rule_is_shown_here() -> None:
    """A rule without a case above would be a rule that nobody has seen at work."""
    shown = {name for name, *_ in (*REFUSED, *CORRECTED)} | {"blackwell-has-no-integer-formats"}
    assert shown == ALL.keys()


@pytest.mark.parametrize(("precision", "refused"), [(Precision.INT8_SQ, True), (Precision.INT4_AWQ, True), (Precision.FP8, False)])
def test_datacentre_blackwell_refuses_integer_weights(precision: Precision, refused: bool) -> None:
    """No such GPU can be planned for yet; the rule waits for the first."""
    gpu = dataclasses.replace(gpus.get("h100"), name="b200", compute_capability="10.0")
    proposal = Proposal(networks.get("qwen2.5-coder-7b"), gpu, precision, Limits(), KvCache.MODEL, False, {}, flags.SERVING)
    assert isinstance(blackwell_has_no_integer_formats.judge(proposal), Refusal) == refused


def test_all_refusals_come_at_once() -> None:
    """Who has made three mistakes need not ask three times."""
    with pytest.raises(PlanRefused) as caught:
        make(gpu="a10", kv_cache=KvCache.FP8, build={"max_batch_size": "2048"})
    assert [name for name in ALL if f"[{name}:" in str(caught.value)] == ["fp8-needs-ada", "no-fp8-kv-cache", "batch-size-is-chosen"]


def test_the_operators_word_opens_the_3b_model() -> None:
    """Its licence is for the operator to judge."""
    assert make(model="qwen2.5-coder-3b", licence_accepted=True).proposal.network.name == "qwen2.5-coder-3b"


@pytest.mark.parametrize(("changes", "names"), [({"model": "llama"}, "qwen2.5-coder-0.5b"), ({"gpu": "t4"}, "l4, a10, a100, h100")])
def test_an_unknown_name_lists_the_known_ones(changes: dict[str, Any], names: str) -> None:
    """A typing mistake is told apart from a refusal."""
    with pytest.raises(SetupError, match=names):
        make(**changes)
