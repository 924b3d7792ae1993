"""The engine's repository declares NVIDIA's tensors and parameters, and nothing that is a trap."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyahead.engine.contract import INPUTS, MODEL_NAME, OUTPUTS
from keyahead.engine.repository import cpu_config
from keyahead.engine.trtllm import flags
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from keyahead.engine.trtllm.preflight import declared
from keyahead.engine.trtllm.proposal import Limits, Lora
from keyahead.engine.trtllm.repository import engine_config, write_engine

# As in TensorRT-LLM's triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt: type, dims, and what else it says.
NVIDIA_INPUTS = {
    "input_ids": "INT32 [-1] ragged optional",
    "input_lengths": "INT32 [1] scalar",
    "request_output_len": "INT32 [1] scalar",
    "draft_input_ids": "INT32 [-1] ragged optional",
    "end_id": "INT32 [1] scalar optional",
    "pad_id": "INT32 [1] scalar optional",
    "stop_words_list": "INT32 [2, -1] ragged optional",
    "embedding_bias": "FP32 [-1] ragged optional",
    "runtime_top_k": "INT32 [1] scalar optional",
    "runtime_top_p": "FP32 [1] scalar optional",
    "temperature": "FP32 [1] scalar optional",
    "seed": "UINT64 [1] scalar optional",
    "streaming": "BOOL [1] scalar optional",
    "stop": "BOOL [1] scalar optional",
    "exclude_input_in_output": "BOOL [1] scalar optional",
    "return_log_probs": "BOOL [1] scalar optional",
    "return_perf_metrics": "BOOL [1] scalar optional",
    "lora_task_id": "UINT64 [1] scalar optional",
    "lora_weights": "FP16 [-1, -1] ragged optional",
    "lora_config": "INT32 [-1, 3] ragged optional",
}
NVIDIA_OUTPUTS = {
    "output_ids": "INT32 [-1, -1]",
    "sequence_length": "INT32 [-1]",
    "cum_log_probs": "FP32 [-1]",
    "output_log_probs": "FP32 [-1, -1]",
    "kv_cache_alloc_new_blocks": "INT32 [1]",
    "kv_cache_reused_blocks": "INT32 [1]",
    "kv_cache_alloc_total_blocks": "INT32 [1]",
    "arrival_time_ns": "INT64 [1]",
    "first_scheduled_time_ns": "INT64 [1]",
    "first_token_time_ns": "INT64 [1]",
    "last_token_time_ns": "INT64 [1]",
    "acceptance_rate": "FP32 [1]",
    "total_accepted_draft_tokens": "INT32 [1]",
    "total_draft_tokens": "INT32 [1]",
}


@pytest.fixture
def plan() -> Plan:
    """A plan."""
    return Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, Limits(max_batch_size=48))


def described(config: str, kind: str) -> dict[str, str]:
    """Each tensor of a config.pbtxt in the words of the tables above."""
    block = re.search(rf"^{kind} \[\n(.*?)^\]", config, re.MULTILINE | re.DOTALL)
    assert block
    found = {}
    for text in block[1].split("  },"):
        name, datatype = re.findall(r'name: "(\w+)"\s+data_type: TYPE_(\w+)', text)[0]
        dims = re.findall(r"dims: \[ (.*?) \]", text)[0]
        words = {"allow_ragged_batch: true": "ragged", "reshape: { shape: [ ] }": "scalar", "optional: true": "optional"}
        found[name] = " ".join([f"{datatype} [{dims}]", *(word for says, word in words.items() if says in text)])
    return found


def test_every_tensor_is_nvidias(plan: Plan) -> None:
    """Names, types, dims, reshape, raggedness and optionality, one by one."""
    config = engine_config(plan)
    assert described(config, "input") == NVIDIA_INPUTS
    assert described(config, "output") == NVIDIA_OUTPUTS


def test_both_engines_declare_the_same_tensors(plan: Plan, tmp_path: Path) -> None:
    """Nothing above the contract can tell the engines apart by their configuration."""
    ours = declared(engine_config(plan))
    assert ours == declared(cpu_config(tmp_path, {}))
    assert len(ours) == len(INPUTS) + len(OUTPUTS)


def test_the_header(plan: Plan) -> None:
    """Decoupled, the plan's batch size, no delay, and the backend's own placement."""
    config = engine_config(plan)
    for line in (
        'name: "tensorrt_llm"',
        'backend: "tensorrtllm"',
        "max_batch_size: 48",
        "model_transaction_policy { decoupled: true }",
        "dynamic_batching { preferred_batch_size: [ 48 ] max_queue_delay_microseconds: 0 default_queue_policy { max_queue_size: 64 } }",
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
    ):
        assert f"{line}\n" in config


def test_every_parameter_is_nvidias_and_as_recommended(plan: Plan) -> None:
    """Each key is one that the backend reads, and the values are those that this service needs."""
    parameters = dict(re.findall(r'parameters \{ key: "(\w+)" value: \{ string_value: "(.*?)" \} \}', engine_config(plan)))
    assert parameters.keys() <= flags.PARAMETERS
    assert parameters == {
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": "/engine",
        "max_beam_width": "1",
        "batch_scheduler_policy": "guaranteed_no_evict",
        "kv_cache_free_gpu_mem_fraction": "0.9",
        "enable_kv_cache_reuse": "true",
        "kv_cache_host_memory_bytes": "2147483648",
        "enable_chunked_context": "false",
        "exclude_input_in_output": "true",
        "cancellation_check_period_ms": "5",
        "stats_check_period_ms": "500",
        "multi_block_mode": "true",
        "cuda_graph_mode": "true",
        "cuda_graph_cache_size": "100",
        "tokenizer_dir": "",
        "xgrammar_tokenizer_info_path": "",
        "guided_decoding_backend": "",
    }


@pytest.mark.parametrize("key", ["gpt_model_type", "tokenizer_dir", "xgrammar_tokenizer_info_path", "guided_decoding_backend"])
def test_a_parameter_that_the_backend_does_not_load_without_is_there(key: str) -> None:
    """It reads these four without a default (model_instance_state.cc), in an engine for adapters or without drafts, too."""
    for limits, lora in ((Limits(), None), (Limits(), Lora(16)), (Limits(max_drafts=0), None)):
        plan = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, limits, lora=lora)
        assert f'parameters {{ key: "{key}" value' in engine_config(plan)


def test_an_engine_for_adapters_has_caches_for_them() -> None:
    """Sizes by the highest rank; and no captured graph."""
    config = engine_config(Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, lora=Lora(16)))
    parameters = dict(re.findall(r'parameters \{ key: "(\w+)" value: \{ string_value: "(.*?)" \} \}', config))
    assert parameters.keys() <= flags.PARAMETERS
    assert {key: value for key, value in parameters.items() if key.startswith(("lora", "cuda_graph_mode"))} == {
        "lora_cache_max_adapter_size": "16",
        "lora_cache_optimal_adapter_size": "16",
        "lora_cache_gpu_memory_fraction": "0.05",
        "lora_cache_host_memory_bytes": "1073741824",
        "cuda_graph_mode": "false",
    }


@pytest.mark.parametrize(
    "trap",
    ["draft_logits", "draft_acceptance_threshold", "early_stopping", "runtime_top_p_min", "return_context_logits", "context_logits", "${"],
)
def test_no_trap_is_declared(plan: Plan, trap: str) -> None:
    """Logits of drafts need equal vocabularies, a threshold without them is ignored, two inputs are read wrongly, and no blank is left.

    What is not declared, Triton refuses by name.
    """
    assert trap not in engine_config(plan)


def test_writing_again_replaces_the_old(plan: Plan, tmp_path: Path) -> None:
    """A repository holds one configuration and its empty version, nothing of an earlier plan."""
    folder = write_engine(tmp_path / "repository", plan)
    (folder / "leftover").touch()
    write_engine(folder, plan)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == [
        Path(MODEL_NAME),
        Path(MODEL_NAME, "1"),
        Path(MODEL_NAME, "config.pbtxt"),
    ]
