"""A plan's commands are exactly those of NVIDIA's documents, and every combination that makes sense can be planned."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine import catalogue
from keyahead.engine.store import SetupError
from keyahead.engine.trtllm import flags, gpus, networks
from keyahead.engine.trtllm.image import Image
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from keyahead.engine.trtllm.proposal import Limits, Lora, Runtime

CONVERT = "python3 /app/examples/models/core/qwen/convert_checkpoint.py --model_dir /checkpoint --output_dir /made/checkpoint --dtype"
QUANTIZE = "python3 /app/examples/quantization/quantize.py --model_dir /checkpoint --output_dir /made/checkpoint --dtype"
LOCAL = "--calib_dataset /calibration --calib_size"
CHECKPOINTS = {
    Precision.BF16: f"{CONVERT} bfloat16",
    Precision.FP16: f"{CONVERT} float16",
    Precision.FP8: f"{QUANTIZE} bfloat16 --qformat fp8 {LOCAL} 512",
    Precision.INT8_SQ: f"{QUANTIZE} float16 --qformat int8_sq {LOCAL} 512",
    Precision.INT4_AWQ: f"{QUANTIZE} float16 --qformat int4_awq {LOCAL} 32 --awq_block_size 128",
}
BUILD = (
    "trtllm-build --checkpoint_dir /made/checkpoint --output_dir /made/engine --gemm_plugin auto --gpt_attention_plugin auto "
    "--remove_input_padding enable --context_fmha enable --kv_cache_type paged --use_paged_context_fmha enable --tokens_per_block 32 "
    "--max_batch_size 32 --max_beam_width 1 --max_input_len 4096 --max_seq_len 4352 --max_num_tokens 8192 --multiple_profiles enable "
    "--logits_dtype float32"
)
DRAFTS = " --speculative_decoding_mode draft_tokens_external --max_draft_len 24"


@pytest.mark.parametrize("precision", Precision)
def test_the_commands(precision: Precision) -> None:
    """Word for word; FP8 also switches off what its 16-bit KV cache rules out."""
    plan = Plan.make("qwen2.5-coder-7b", "h100", precision)
    assert shlex.join(plan.checkpoint_command) == CHECKPOINTS[precision]
    fmha = " --use_fp8_context_fmha disable" if precision is Precision.FP8 else ""
    assert shlex.join(plan.build_command) == BUILD + DRAFTS + fmha


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.FP8, Precision.INT4_AWQ])
def test_an_engine_for_adapters(precision: Precision) -> None:
    """The plugin, modules by TensorRT-LLM's names in its order, the rank, and FP16 wherever weights are not quantized."""
    plan = Plan.make("qwen2.5-coder-7b", "h100", precision, lora=Lora(16, ("down_proj", "v_proj", "q_proj", "k_proj")))
    adapters = " --lora_plugin float16 --lora_target_modules attn_q attn_k attn_v mlp_4h_to_h --max_lora_rank 16"
    fmha = " --use_fp8_context_fmha disable" if precision is Precision.FP8 else ""
    assert shlex.join(plan.build_command) == BUILD + DRAFTS + adapters + fmha
    assert shlex.join(plan.checkpoint_command) == CHECKPOINTS[precision].replace("bfloat16", "float16")


def test_an_adapters_size_is_that_of_its_matrices() -> None:
    """Rank times what goes in and comes out, for each module and layer, twice the bytes; all seven of 1.5B are 41,216 values a layer."""
    proposal = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, lora=Lora(64)).proposal
    assert proposal.adapter_bytes == 2 * 64 * 28 * 41216
    with_kv = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8).memory
    assert proposal.memory.adapters == pytest.approx(0.05 * with_kv.kv_pool / 0.9)
    assert proposal.memory.kv_pool == pytest.approx(0.95 * with_kv.kv_pool)


def test_an_engine_for_drafts_keeps_four_tables_of_logits() -> None:
    """Its own logits, the draft's, and two distributions, each FP32 for every sequence, place and token of the vocabulary."""
    with_drafts, without = (Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, Limits(max_drafts=drafts)).memory for drafts in (24, 0))
    assert with_drafts.activations - without.activations == 4 * 151936 * (4 * 32 * 25 - 32)
    own = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, Limits(max_drafts=24), runtime=Runtime.LLM_API).memory
    assert own.activations - without.activations == 4 * 151936 * (32 * 25 - 32)


def test_an_engine_without_drafts() -> None:
    """The plain engine's command has neither mode nor length."""
    assert shlex.join(Plan.make("qwen2.5-coder-1.5b", "l4", Precision.BF16, Limits(max_drafts=0)).build_command) == BUILD


@given(
    model=st.sampled_from([name for name in networks.NETWORKS if networks.get(name).open_licence]),
    gpu=st.sampled_from(list(gpus.GPUS)),
    precision=st.sampled_from(Precision),
    limits=st.builds(
        Limits,
        st.integers(1, 128),
        st.integers(64, 8192),
        st.integers(1, 512),
        st.sampled_from([0, *range(8, 65)]),
        st.integers(256, 16384),
    ),
)
def test_what_is_planned_can_be_served(model: str, gpu: str, precision: Precision, limits: Limits) -> None:
    """Whatever passes the rules holds a whole prompt with answer and drafts, and uses nothing that TensorRT-LLM does not know.

    What does not pass is FP8 on Ampere, or too much for a card of 24 GB.
    """
    card = gpus.get(gpu)
    try:
        plan = Plan.make(model, gpu, precision, limits)
    except SetupError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert ("[fp8-needs-ada:" in refusal) == (precision is Precision.FP8 and card.sm < 89)
    if refusal:
        assert "[fp8-needs-ada:" in refusal or ("[fits-into-memory:" in refusal and card.memory_bytes == 24e9)
        return
    proposal = plan.proposal
    assert proposal.max_seq_len == limits.max_input + limits.max_output + limits.max_drafts
    assert proposal.number("max_num_tokens") >= limits.max_batch_size * (limits.max_drafts + 1) or not limits.max_drafts
    assert plan.memory.kv_tokens >= proposal.max_seq_len
    assert {word[2:] for word in plan.build_command if word.startswith("--")} <= flags.OPTIONS
    assert proposal.serving.keys() <= flags.PARAMETERS


def test_no_news_is_fetched() -> None:
    """Whatever needs calibration reads the local folder, and the container may not look for another."""
    for precision in Precision:
        plan = Plan.make("qwen2.5-coder-1.5b", "l4", precision)
        assert ("--calib_dataset" in plan.checkpoint_command) == precision.needs_calibration
    run = Image().run(["true"], {})
    assert {"HF_HUB_OFFLINE=1", "HF_DATASETS_OFFLINE=1", "TRANSFORMERS_OFFLINE=1"} <= set(run)


def test_the_name_tells_engines_apart() -> None:
    """Whatever changes the engine changes the folder's name; what only changes serving does not."""
    plan = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8)
    assert plan.name.startswith("qwen2.5-coder-1.5b-l4-fp8-")
    assert Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, Limits(max_drafts=16)).name != plan.name
    assert Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, image=Image(digest="sha256:" + "0" * 64)).name != plan.name
    assert Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8, serving={"stats_check_period_ms": "100"}).name == plan.name


def test_an_image_is_named_by_tag_and_digest() -> None:
    """The digest pins what the tag means; a mistyped one is refused."""
    digest = "sha256:" + "ab" * 32
    assert Image(digest=digest).reference == f"nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3@{digest}"
    with pytest.raises(SetupError, match="64 hexadecimal digits"):
        Image(digest="sha256:abc")


@pytest.mark.parametrize("name", list(networks.NETWORKS))
def test_the_catalogue_agrees(name: str) -> None:
    """A network's figures are those of the model's entry, so that the service and the engine speak of the same vocabulary."""
    network, model = networks.get(name), catalogue.get(name)
    assert catalogue.Engine.GPU in model.engines
    assert (network.num_hidden_layers, network.num_key_value_heads, network.head_dim, network.vocab_size) == (
        model.layers,
        model.kv_heads,
        model.head_size,
        model.vocab,
    )
    assert network.open_licence == (model.licence == "Apache-2.0")
