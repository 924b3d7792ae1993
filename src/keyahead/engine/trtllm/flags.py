"""The options of `trtllm-build` and the parameters of the `tensorrtllm` backend, of TensorRT-LLM 1.2: which there are, and what we pass.

Sources: `tensorrt_llm/commands/build.py`, `tensorrt_llm/builder.py` (BuildConfig), `tensorrt_llm/plugin/plugin.py`, and the backend's
`inflight_batcher_llm/tensorrt_llm/config.pbtxt`. `keyahead engine preflight` compares both lists with the container's own.
"""

# ruff: noqa: SIM905 - long lists of names read better as text.

from __future__ import annotations

from collections.abc import Iterable, Mapping

from keyahead.engine.contract import BLOCK_TOKENS

DEFAULT_BATCH_SIZE = 2048
"""What `trtllm-build` takes for `--max_batch_size` when it is not given."""
DEFAULT_NUM_TOKENS = 8192
"""Likewise for `--max_num_tokens`."""

SWITCHES = frozenset(
    "strip_plan weight_sparsity weight_streaming fast_build enable_debug_output dry_run monitor_memory "
    "gather_context_logits gather_generation_logits gather_all_token_logits".split()
)
"""Options without a value."""
OPTIONS = SWITCHES | frozenset(
    "checkpoint_dir model_config build_config model_cls_file model_cls_name output_dir max_batch_size max_input_len max_seq_len "
    "max_beam_width max_num_tokens opt_num_tokens max_encoder_input_len max_prompt_embedding_table_size kv_cache_type paged_kv_cache "
    "input_timing_cache output_timing_cache profiling_verbosity workers log_level visualize_network logits_dtype lora_dir "
    "lora_ckpt_source lora_target_modules max_lora_rank speculative_decoding_mode max_draft_len bert_attention_plugin "
    "gpt_attention_plugin gemm_plugin gemm_swiglu_plugin fp8_rowwise_gemm_plugin lora_plugin dora_plugin moe_plugin "
    "mamba_conv1d_plugin nccl_plugin low_latency_gemm_plugin low_latency_gemm_swiglu_plugin gemm_allreduce_plugin context_fmha "
    "bert_context_fmha_fp32_acc remove_input_padding tokens_per_block use_paged_context_fmha use_fp8_context_fmha fuse_fp4_quant "
    "multiple_profiles paged_state streamingllm norm_quant_fusion reduce_fusion user_buffer use_fused_mlp pp_reduce_scatter".split()
)
ALIASES: Mapping[str, str] = {"max_decoder_seq_len": "max_seq_len", "max_multimodal_len": "max_prompt_embedding_table_size"}
"""Second names. Rules judge by the first, and both together would contradict each other."""
FEATURES = frozenset(
    "context_fmha bert_context_fmha_fp32_acc remove_input_padding use_paged_context_fmha use_fp8_context_fmha fuse_fp4_quant "
    "multiple_profiles paged_state streamingllm norm_quant_fusion reduce_fusion user_buffer use_fused_mlp pp_reduce_scatter "
    "dora_plugin".split()
)
"""Options that are `enable` or `disable`."""
PLUGINS = frozenset("bert_attention_plugin gpt_attention_plugin gemm_plugin lora_plugin moe_plugin mamba_conv1d_plugin nccl_plugin".split())
"""Options that are one of these types."""
PLUGIN_TYPES = frozenset("auto float16 float32 bfloat16 int32 disable".split())
GEMM_TYPES = PLUGIN_TYPES | {"fp8", "nvfp4"}
"""What `gemm_plugin` takes."""
REMOVED_OPTIONS = frozenset({"auto_parallel", "gpus_per_node", "cluster_key"})
"""Options of versions before 1.0."""

PARAMETERS = frozenset(
    "max_beam_width FORCE_CPU_ONLY_INPUT_TENSORS gpt_model_type gpt_model_path encoder_model_path max_tokens_in_paged_kv_cache "
    "max_attention_window_size sink_token_length batch_scheduler_policy kv_cache_free_gpu_mem_fraction cross_kv_cache_fraction "
    "kv_cache_host_memory_bytes kv_cache_onboard_blocks exclude_input_in_output cancellation_check_period_ms stats_check_period_ms "
    "iter_stats_max_iterations request_stats_max_iterations enable_kv_cache_reuse normalize_log_probs enable_chunked_context "
    "gpu_device_ids participant_ids num_nodes lora_cache_optimal_adapter_size lora_cache_max_adapter_size "
    "lora_cache_gpu_memory_fraction lora_cache_host_memory_bytes lora_prefetch_dir decoding_mode executor_worker_path "
    "lookahead_window_size lookahead_ngram_size lookahead_verification_set_size medusa_choices eagle_choices gpu_weights_percent "
    "enable_context_fmha_fp32_acc multi_block_mode cuda_graph_mode cuda_graph_cache_size speculative_decoding_fast_logits "
    "tokenizer_dir guided_decoding_backend xgrammar_tokenizer_info_path recv_poll_period_ms".split()
)
PARAMETER_SWITCHES = frozenset(
    "kv_cache_onboard_blocks exclude_input_in_output enable_kv_cache_reuse normalize_log_probs enable_chunked_context "
    "speculative_decoding_fast_logits enable_context_fmha_fp32_acc multi_block_mode cuda_graph_mode".split()
)
"""Parameters that are true or false."""
PARAMETER_COUNTS = frozenset(
    "max_beam_width max_tokens_in_paged_kv_cache sink_token_length kv_cache_host_memory_bytes cancellation_check_period_ms "
    "stats_check_period_ms iter_stats_max_iterations request_stats_max_iterations num_nodes lora_cache_optimal_adapter_size "
    "lora_cache_max_adapter_size lora_cache_host_memory_bytes lookahead_window_size lookahead_ngram_size "
    "lookahead_verification_set_size cuda_graph_cache_size recv_poll_period_ms".split()
)
"""Parameters that are whole numbers."""
POLICIES = frozenset({"guaranteed_no_evict", "max_utilization"})
"""What `batch_scheduler_policy` takes."""

SERVING: Mapping[str, str] = {
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "gpt_model_type": "inflight_fused_batching",
    "max_beam_width": "1",
    "batch_scheduler_policy": "guaranteed_no_evict",
    "kv_cache_free_gpu_mem_fraction": "0.9",
    "enable_kv_cache_reuse": "true",
    # A second level of the prefix cache in pinned host memory (docs/adr/0010), 2 GiB.
    "kv_cache_host_memory_bytes": str(2 << 30),
    # A prompt fits into a step, which it shares with others' decoding in any case; chunks would cost drafts (rules.py).
    "enable_chunked_context": "false",
    "exclude_input_in_output": "true",
    # The backend's default of 100 would let a cancelled request compute for half of the latency objective.
    "cancellation_check_period_ms": "5",
    "stats_check_period_ms": "500",
    "multi_block_mode": "true",
    "cuda_graph_mode": "true",
    "cuda_graph_cache_size": "100",
    # Empty: no guided decoding. All other parameters may be missing, but without one of these the backend does not load the model
    # (model_instance_state.cc, getGuidedDecodingConfigFromParams).
    "tokenizer_dir": "",
    "xgrammar_tokenizer_info_path": "",
    "guided_decoding_backend": "",
}
"""The backend's parameters for this service."""


def build_options(*, max_batch_size: int, max_input: int, max_output: int, max_drafts: int, max_num_tokens: int) -> dict[str, str]:
    """What `trtllm-build` is told for these limits, in tokens and sequences, before any rule has seen it."""
    options = {
        "gemm_plugin": "auto",
        "gpt_attention_plugin": "auto",
        "remove_input_padding": "enable",
        "context_fmha": "enable",
        "kv_cache_type": "paged",
        "use_paged_context_fmha": "enable",
        "tokens_per_block": str(BLOCK_TOKENS),
        "max_batch_size": str(max_batch_size),
        "max_beam_width": "1",
        "max_input_len": str(max_input),
        "max_seq_len": str(max_input + max_output),
        "max_num_tokens": str(max_num_tokens),
        "multiple_profiles": "enable",
        # The type of `embedding_bias`. A checkpoint that was quantized asks for float16.
        "logits_dtype": "float32",
    }
    if max_drafts:
        options |= {"speculative_decoding_mode": "draft_tokens_external", "max_draft_len": str(max_drafts)}
    return options


def lora_build_options(rank: int, modules: Iterable[str]) -> dict[str, str]:
    """What `trtllm-build` is told to make an engine that takes adapters of these modules, by TensorRT-LLM's names, up to this rank."""
    return {"lora_plugin": "float16", "lora_target_modules": " ".join(modules), "max_lora_rank": str(rank)}


def lora_serving(rank: int) -> dict[str, str]:
    """The backend's parameters for adapters: caches of its default sizes, in pages that one of the highest rank fills."""
    return {
        "lora_cache_max_adapter_size": str(rank),
        "lora_cache_optimal_adapter_size": str(rank),
        "lora_cache_gpu_memory_fraction": "0.05",
        "lora_cache_host_memory_bytes": str(1 << 30),
    }
