"""The traps of building an engine, each a rule.

They come from reading TensorRT-LLM 1.1 and 1.2: its builder, its examples, its issues. A rule that only the builder would break at once is
here, too, since the builder says so after minutes on a rented GPU.
"""

from __future__ import annotations

from keyahead.engine.contract import BLOCK_TOKENS
from keyahead.engine.trtllm import flags
from keyahead.engine.trtllm.precision import KvCache, Precision
from keyahead.engine.trtllm.proposal import Proposal
from keyahead.engine.trtllm.verdicts import Correction, Refusal, Verdict, rule

TESTED_DRAFTS = 8
"""Drafts that the contract tests verify in one step."""

_BUILD = "TensorRT-LLM tensorrt_llm/commands/build.py"
_PLUGINS = "TensorRT-LLM tensorrt_llm/plugin/plugin.py"
_BUILDER = "TensorRT-LLM tensorrt_llm/builder.py"
_DRAFTS = "TensorRT-LLM examples/draft_target_model/README.md"
_COUNTS = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width", "tokens_per_block")
_FP8_SM = 89
_BLACKWELL_SM = range(100, 120)
_HOPPER_SM = 90


@rule("https://huggingface.co/Qwen/Qwen2.5-Coder-3B/blob/main/LICENSE")
def licence(proposal: Proposal) -> Verdict:
    """The 3B model is not Apache-2.0."""
    if proposal.network.open_licence or proposal.licence_accepted:
        return None
    return Refusal(f"{proposal.network.name} is licensed for research only: pass --accept-licence if your use is allowed, or choose 1.5b")


@rule(_BUILD)
def known_options(proposal: Proposal) -> Verdict:
    """An option that does not exist ends the build at its start."""
    if removed := flags.REMOVED_OPTIONS & proposal.build.keys():
        return Refusal(f"trtllm-build has no --{min(removed)} any more, since it was removed before 1.0: leave it out")
    if aliases := flags.ALIASES.keys() & proposal.build.keys():
        return Refusal(f"--{min(aliases)} is another name of --{flags.ALIASES[min(aliases)]}: give the latter")
    if places := {"checkpoint_dir", "output_dir"} & proposal.build.keys():
        return Refusal(f"--{min(places)} is the build's own to choose: leave it out, and use --work")
    if "build_config" in proposal.build:
        return Refusal("--build_config makes trtllm-build ignore the options that rules have judged: give each option by itself")
    if unknown := proposal.build.keys() - flags.OPTIONS:
        return Refusal(f"trtllm-build has no option --{min(unknown)}: leave it out or mend its name")
    return None


@rule(_PLUGINS)
def known_values(proposal: Proposal) -> Verdict:
    """The command refuses another, but only once the checkpoint has been quantized."""
    for option, value in proposal.build.items():
        if option in flags.SWITCHES and value:
            return Refusal(f"--{option} takes no value: leave {value!r} out")
        if option not in flags.SWITCHES and not value:
            return Refusal(f"--{option} has no value: give {option}=VALUE")
        if option in flags.FEATURES and value not in {"enable", "disable"}:
            return Refusal(f"--{option} is {value!r}: give enable or disable")
        types = flags.GEMM_TYPES if option == "gemm_plugin" else flags.PLUGIN_TYPES
        if option in {*flags.PLUGINS, "gemm_plugin"} and value not in types:
            return Refusal(f"--{option} is {value!r}: give one of {', '.join(sorted(types))}")
    return None


@rule(_BUILD)
def whole_numbers(proposal: Proposal) -> Verdict:
    """What counts something must be a positive number."""
    for option in _COUNTS:
        if proposal.number(option) < 1:
            return Refusal(f"--{option} is {proposal.build.get(option, 'missing')!r}: give a whole number from 1")
    return None


@rule("https://nvidia.github.io/TensorRT-LLM/examples/llm_quantization.html")
def fp8_needs_ada(proposal: Proposal) -> Verdict:
    """Ampere multiplies no FP8."""
    if proposal.precision is not Precision.FP8 or proposal.gpu.sm >= _FP8_SM:
        return None
    return Refusal(
        f"FP8 needs compute capability 8.9, and {proposal.gpu.name} has {proposal.gpu.compute_capability}: "
        "choose int4-awq, or int8-sq for a TensorRT engine"
    )


@rule("TensorRT-LLM issues 4218 and 2699: wrong output of Qwen2.5 with an FP8 KV cache")
def no_fp8_kv_cache(proposal: Proposal) -> Verdict:
    """Qwen2's keys have outliers that FP8 does not hold."""
    if proposal.kv_cache is not KvCache.FP8:
        return None
    return Refusal("An FP8 KV cache gives wrong text with Qwen2.5: keep it in 16 bits, which costs little for these models")


@rule(_BUILDER)
def no_mixed_fp8_kv_cache(proposal: Proposal) -> Verdict:
    """Any other weights lose reuse."""
    if proposal.kv_cache is not KvCache.FP8 or proposal.precision is Precision.FP8:
        return None
    return Refusal("An FP8 KV cache under weights that are not FP8 switches paged-context FMHA off, and with it reuse: keep it in 16 bits")


@rule(_BUILDER)
def no_int8_kv_cache(proposal: Proposal) -> Verdict:
    """It costs what autocomplete rests on."""
    if proposal.kv_cache is not KvCache.INT8:
        return None
    return Refusal("An INT8 KV cache switches paged-context FMHA off, so no prompt would reuse another's KV: keep it in 16 bits")


@rule(_BUILDER)
def blackwell_has_no_integer_formats(proposal: Proposal) -> Verdict:
    """SM 100 to 119."""
    if proposal.gpu.sm not in _BLACKWELL_SM or proposal.precision not in {Precision.INT8_SQ, Precision.INT4_AWQ}:
        return None
    return Refusal(f"Compute capability {proposal.gpu.compute_capability} refuses INT8 and INT4 weights: choose fp8")


@rule(_BUILDER)
def fp8_context_fmha_follows_the_kv_cache(proposal: Proposal) -> Verdict:
    """With 16-bit keys the builder would warn and do the same."""
    if proposal.precision is not Precision.FP8 or proposal.build.get("use_fp8_context_fmha") == "disable":
        return None
    corrected = proposal.with_build(use_fp8_context_fmha="disable")
    return Correction(corrected, "FP8 context FMHA needs an FP8 KV cache, so it is off; reuse of KV stays on")


@rule(_BUILD)
def one_kind_of_speculation(proposal: Proposal) -> Verdict:
    """One mode for an engine, and each mode its length."""
    mode = proposal.build.get("speculative_decoding_mode", "")
    if mode not in {"", "draft_tokens_external"}:
        return Refusal(f"An engine has one kind of speculation, and {mode} takes no drafts of ours: leave --speculative_decoding_mode out")
    if bool(mode) != bool(proposal.drafts):
        return Refusal("--speculative_decoding_mode and --max_draft_len go together: give both or neither")
    return None


@rule("tensorrtllm_backend issue 473: 'Number of draft tokens is larger than maximum'")
def drafts_fit(proposal: Proposal) -> Verdict:
    """The engine answers a longer draft with an error."""
    if proposal.drafts >= proposal.limits.max_drafts:
        return None
    return Refusal(
        f"The service sends up to {proposal.limits.max_drafts} drafts, and the engine would refuse more than {proposal.drafts}: "
        "raise --max_draft_len or lower --max-drafts"
    )


@rule("tests/contract/test_drafts.py of keyahead")
def drafts_can_be_tested(proposal: Proposal) -> Verdict:
    """An engine for fewer would fail its preflight, after it was built."""
    if not 0 < proposal.drafts < TESTED_DRAFTS:
        return None
    return Refusal(f"The contract tests verify {TESTED_DRAFTS} drafts at once, and --max_draft_len is {proposal.drafts}: give more, or 0")


@rule(_DRAFTS)
def what_drafts_and_reuse_need(proposal: Proposal) -> Verdict:
    """Paged KV, paged-context FMHA on unpadded input, and no beams."""
    needed = {
        "kv_cache_type": "paged",
        "use_paged_context_fmha": "enable",
        "context_fmha": "enable",
        "remove_input_padding": "enable",
        "max_beam_width": "1",
    }
    for option, value in needed.items():
        if (found := proposal.build.get(option)) != value:
            return Refusal(f"--{option} is {found}, but drafts and reuse of KV need {value}: leave the option out")
    return None


@rule("https://nvidia.github.io/TensorRT-LLM/features/kvcache.html")
def blocks_are_the_contracts(proposal: Proposal) -> Verdict:
    """The contract tests count them; and another size than a power of 2 cannot be."""
    if (found := proposal.number("tokens_per_block")) == BLOCK_TOKENS:
        return None
    return Refusal(f"--tokens_per_block is {found}, and the contract's blocks have {BLOCK_TOKENS} tokens: leave it out")


@rule("TensorRT-LLM cpp/tensorrt_llm/batch_manager/createNewDecoderRequests.cpp: getEmbeddingBias")
def logits_are_fp32(proposal: Proposal) -> Verdict:
    """A request's `embedding_bias` is FP32; for logits of FP16 it is converted, with a warning each time.

    Whoever leaves the option out gets the checkpoint's type, which after quantization is FP16 (ModelOpt's
    modelopt/torch/export/tensorrt_llm_utils.py): too coarse to tell likely tokens apart.
    """
    if (found := proposal.build.get("logits_dtype")) == "float32":
        return None
    return Refusal(f"--logits_dtype is {found}, and a request's embedding_bias is FP32: leave the option out")


@rule(_BUILD)
def no_deprecated_options(proposal: Proposal) -> Verdict:
    """Still read, with a warning."""
    deprecated = {"paged_kv_cache", "gather_generation_logits"} & proposal.build.keys()
    if not deprecated:
        return None
    return Correction(proposal.without_build(*deprecated), f"Left out as deprecated: --{', --'.join(sorted(deprecated))}")


@rule(_BUILD)
def no_context_logits_with_drafts(proposal: Proposal) -> Verdict:
    """The builder raises RuntimeError."""
    asked = {"gather_context_logits", "gather_all_token_logits"} & proposal.build.keys()
    if not asked or not proposal.drafts:
        return None
    return Refusal(f"--{min(asked)} does not go with drafts: leave it out")


@rule(_BUILD)
def profiles_choose_their_tokens(proposal: Proposal) -> Verdict:
    """The builder raises RuntimeError."""
    if proposal.build.get("multiple_profiles") != "enable" or "opt_num_tokens" not in proposal.build:
        return None
    return Refusal("--multiple_profiles enable does not go with --opt_num_tokens: leave the latter out")


@rule(_BUILDER)
def batch_size_is_chosen(proposal: Proposal) -> Verdict:
    """The builder raises the tokens of a step to hold every request's drafts."""
    batch = proposal.number("max_batch_size")
    if not proposal.drafts or batch < flags.DEFAULT_BATCH_SIZE:
        return None
    tokens = batch * (proposal.drafts + 1)
    return Refusal(
        f"--max_batch_size {batch} with {proposal.drafts} drafts makes the builder keep buffers for {tokens} tokens a step: "
        "set it to the requests you serve at once, such as 32"
    )


@rule(_BUILDER)
def step_holds_all_drafts(proposal: Proposal) -> Verdict:
    """What the builder would do by itself."""
    needed = proposal.number("max_batch_size") * (proposal.drafts + 1)
    if not proposal.drafts or proposal.number("max_num_tokens") >= needed:
        return None
    return Correction(proposal.with_build(max_num_tokens=str(needed)), f"--max_num_tokens is raised to {needed}: batch size by drafts + 1")


@rule("TensorRT-LLM cpp/tensorrt_llm/batch_manager trtGptModel.h: maxInputLen")
def step_holds_a_prompt(proposal: Proposal) -> Verdict:
    """Unpadded input ignores --max_input_len; without chunks a longer prompt is refused and its drafts are cut silently."""
    needed = proposal.limits.max_input + proposal.drafts
    if proposal.serving.get("enable_chunked_context") == "true" or proposal.number("max_num_tokens") >= needed:
        return None
    corrected = proposal.with_build(max_num_tokens=str(needed))
    return Correction(corrected, f"--max_num_tokens is raised to {needed}: without chunked context a step holds a prompt and its drafts")


@rule(_BUILDER)
def sequence_holds_prompt_and_answer(proposal: Proposal) -> Verdict:
    """The builder adds the drafts; what does not fit then shortens answers with no more than a warning."""
    length, limits = proposal.number("max_seq_len"), proposal.limits
    if length < limits.max_input + limits.max_output:
        return Refusal(f"--max_seq_len {length} is less than {limits.max_input} + {limits.max_output}, so answers would be cut: raise it")
    if proposal.max_seq_len > proposal.network.max_position_embeddings:
        known = proposal.network.max_position_embeddings
        return Refusal(f"--max_seq_len {length} and the drafts go beyond the {known} positions that the model knows: lower it")
    return None


@rule(_BUILD)
def only_what_suits_qwen(proposal: Proposal) -> Verdict:
    """The command asserts that the first two are off; the third has kernels for Hopper's FP8 only."""
    for option, fate in {"streamingllm": "not supported any more", "pp_reduce_scatter": "for Mixtral only"}.items():
        if proposal.build.get(option, "disable") != "disable":
            return Refusal(f"--{option} is {fate}: leave it out")
    if proposal.build.get("gemm_swiglu_plugin", "disable") == "disable":
        return None
    if proposal.precision is Precision.FP8 and proposal.gpu.sm == _HOPPER_SM:
        return None
    return Refusal("--gemm_swiglu_plugin is for FP8 on Hopper only: leave it out")


BUILD_RULES = (
    licence,
    known_options,
    known_values,
    whole_numbers,
    fp8_needs_ada,
    no_fp8_kv_cache,
    no_mixed_fp8_kv_cache,
    no_int8_kv_cache,
    blackwell_has_no_integer_formats,
    fp8_context_fmha_follows_the_kv_cache,
    one_kind_of_speculation,
    drafts_fit,
    drafts_can_be_tested,
    what_drafts_and_reuse_need,
    blocks_are_the_contracts,
    logits_are_fp32,
    no_deprecated_options,
    no_context_logits_with_drafts,
    profiles_choose_their_tokens,
    batch_size_is_chosen,
    step_holds_all_drafts,
    step_holds_a_prompt,
    sequence_holds_prompt_and_answer,
    only_what_suits_qwen,
)
