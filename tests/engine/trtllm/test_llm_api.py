"""A plan for the LLM API: its arguments, its checkpoint, its own refusals, and what the preflight compares."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from keyahead.engine.trtllm import gpus, llm_api
from keyahead.engine.trtllm.build import phases
from keyahead.engine.trtllm.facts import Facts
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import KvCache, Precision
from keyahead.engine.trtllm.preflight import compare
from keyahead.engine.trtllm.proposal import Limits, Runtime
from keyahead.engine.trtllm.verdicts import PlanRefused
from keyahead.stack import preflight
from tests.engine.trtllm.samples import facts

QUANTIZE = (
    "python3 /app/examples/quantization/quantize.py --model_dir /checkpoint --output_dir /made/checkpoint --dtype {dtype} "
    "--qformat {format} --calib_dataset /calibration --calib_size {size} --export_format hf"
)


def make(precision: Precision = Precision.FP8, gpu: str = "l4", **changes: Any) -> Plan:
    """A plan for the LLM API."""
    return Plan.make("qwen2.5-coder-1.5b", gpu, precision, runtime=Runtime.LLM_API, **changes)


def test_the_arguments() -> None:
    """Those of docs/adr/0015: reuse of KV, chunks, no tokenizer, and drafts from each request's own text alone."""
    assert llm_api.arguments(make().proposal, "/engine") == {
        "model": "/engine",
        "backend": "pytorch",
        "skip_tokenizer_init": True,
        "max_batch_size": 32,
        "max_num_tokens": 8192,
        "max_seq_len": 4352,
        "enable_chunked_prefill": True,
        "disable_overlap_scheduler": True,
        "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.9, "host_cache_size": 2 << 30},
        "speculative_config": {"max_draft_len": 8, "max_matching_ngram_size": 3, "is_public_pool": False},
    }


def test_no_drafts_is_no_speculation() -> None:
    """So that both can be measured."""
    assert "speculative_config" not in llm_api.arguments(make(limits=Limits(max_drafts=0)).proposal, "/engine")


@pytest.mark.parametrize(
    ("precision", "command"),
    [
        (Precision.BF16, "cp -RL /checkpoint/. /made/checkpoint"),
        (Precision.FP16, "cp -RL /checkpoint/. /made/checkpoint"),
        (Precision.FP8, QUANTIZE.format(dtype="bfloat16", format="fp8", size=512)),
        (Precision.INT4_AWQ, QUANTIZE.format(dtype="float16", format="int4_awq", size=32).replace("32 --e", "32 --awq_block_size 128 --e")),
    ],
)
def test_the_checkpoint_is_hugging_faces(precision: Precision, command: str, tmp_path: Path) -> None:
    """Copied, or quantized into the same format; that is all that is made, and what is served."""
    plan = make(precision)
    assert shlex.join(plan.checkpoint_command) == command
    assert [phase.name for phase in phases(plan, tmp_path, tmp_path)] == ["checkpoint"]
    assert plan.served == "checkpoint"


def test_the_service_is_told_to_send_no_drafts() -> None:
    """And as many as a TensorRT engine takes, but never more than it has."""
    assert make().service_drafts == 0
    for drafts, told in ((8, 8), (24, 24), (64, 24)):
        assert Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, Limits(max_drafts=drafts)).service_drafts == told


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"precision": Precision.INT8_SQ}, "formats-of-pytorch"),
        ({"gpu": "a10"}, "fp8-needs-ada"),
        ({"kv_cache": KvCache.FP8}, "no-fp8-kv-cache"),
        ({"kv_cache": KvCache.INT8}, "no-int8-kv-cache-in-pytorch"),
        ({"limits": Limits(max_input=40000)}, "sequence-holds-prompt-and-answer"),
        ({"limits": Limits(max_batch_size=2000, max_drafts=24)}, "fits-into-memory"),
    ],
)
def test_a_trap_is_refused(changes: dict[str, Any], rule: str) -> None:
    """The LLM API's own, and those that both have."""
    with pytest.raises(PlanRefused, match=rf"\[{rule}: "):
        make(**changes)


def test_the_licence_counts_here_too() -> None:
    """3B is for research."""
    with pytest.raises(PlanRefused, match="licence"):
        Plan.make("qwen2.5-coder-3b", "l4", Precision.FP8, runtime=Runtime.LLM_API)


def findings(**changes: Any) -> dict[str, tuple[bool, str]]:
    """What a preflight says of a container."""
    output = json.dumps(facts(gpus.get("l4"), "NVIDIA L4", **changes))
    return {each.what: (each.ok, each.detail) for each in compare(make(), Facts.parse(output))}


def test_the_pinned_container_is_right() -> None:
    """What the LLM API takes is compared, and what only an engine needs is not."""
    found = findings()
    assert all(ok for ok, _ in found.values()), found
    names = ("TorchLlmArgs", "SamplingParams", "KvCacheConfig", "NGramDecodingConfig", "generate_async")
    assert {each for each in found if each.startswith("LLM API")} == {f"LLM API: {name}" for name in names}
    assert "quantize.py --help" in found
    assert not {"trtllm-build --help", "inputs", "parameters"} & found.keys()


def test_a_name_that_is_missing_is_said() -> None:
    """Another version may have dropped it; none at all is a difference, too."""
    names = facts(gpus.get("l4"), "NVIDIA L4")["llm_api"]
    fewer = {**names, "generate_async": ["inputs", "sampling_params", "streaming"]}
    assert findings(llm_api=fewer)["LLM API: generate_async"] == (False, "has no cache_salt")
    assert not findings(llm_api=None)["LLM API: SamplingParams"][0]


def test_the_contract_is_tested_without_drafts(tmp_path: Path) -> None:
    """Deselected, not skipped, which would count as a failure."""
    assert preflight.contract_command(make(), "127.0.0.1:1", tmp_path)[-2:] == ["-m", "not drafts"]
    engine = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8)
    assert "not drafts" not in preflight.contract_command(engine, "127.0.0.1:1", tmp_path)
