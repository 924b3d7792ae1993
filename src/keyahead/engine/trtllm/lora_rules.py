"""The traps of engines that take LoRA adapters with requests, each a rule."""

from __future__ import annotations

from keyahead.engine.adapters import MODULES
from keyahead.engine.trtllm.precision import Precision
from keyahead.engine.trtllm.proposal import Proposal
from keyahead.engine.trtllm.verdicts import Correction, Refusal, Verdict, rule

_BUILD = "TensorRT-LLM tensorrt_llm/commands/build.py"
_REQUESTS = "TensorRT-LLM cpp/tensorrt_llm/runtime/loraUtils.cpp"
_CACHE = "TensorRT-LLM cpp/tensorrt_llm/batch_manager/peftCacheManager.cpp"
_EXAMPLES = "TensorRT-LLM examples/models/core/llama/README.md"
_NAMES = [module.name for module in MODULES.values()]
_ATTENTION = ("attn_q", "attn_k", "attn_v")


@rule(_BUILD)
def adapters_need_their_plugin(proposal: Proposal) -> Verdict:
    """The other options have no effect without it, and the builder does not say so."""
    given = {"lora_target_modules", "max_lora_rank"} & proposal.build.keys()
    if proposal.has_adapters or not given:
        return None
    return Refusal(f"--{min(given)} does nothing without --lora_plugin: give --lora-rank instead")


@rule(_BUILD)
def adapters_change_known_modules(proposal: Proposal) -> Verdict:
    """An adapter for another module would be refused with its first request."""
    if not proposal.has_adapters:
        return None
    if unknown := [name for name in proposal.lora_modules if name not in _NAMES]:
        return Refusal(f"Qwen2 has no module {unknown[0]}: choose of {', '.join(MODULES)} with --lora-module")
    if not proposal.lora_modules or proposal.number("max_lora_rank") < 1:
        return Refusal("An engine for adapters needs modules and a rank from 1: give --lora-rank and --lora-module")
    return None


@rule(_EXAMPLES)
def queries_keys_and_values_together(proposal: Proposal) -> Verdict:
    """The attention layer has one plugin for all three; an adapter need not change them all."""
    missing = [name for name in _ATTENTION if name not in proposal.lora_modules]
    if not missing or len(missing) == len(_ATTENTION):
        return None
    modules = [name for name in _NAMES if name in {*proposal.lora_modules, *missing}]
    reason = f"--lora_target_modules has {', '.join(missing)} too: the three of attention go together only"
    return Correction(proposal.with_build(lora_target_modules=" ".join(modules)), reason)


@rule(_REQUESTS)
def adapters_have_the_models_type(proposal: Proposal) -> Verdict:
    """A request's `lora_weights` are FP16, by the backend's config.pbtxt, and have to be what the engine computes in."""
    if not proposal.has_adapters:
        return None
    if proposal.precision is Precision.BF16:
        return Refusal("Adapters come in FP16, and an engine takes only its own type: choose fp16, or fp8 or int4-awq, made with float16")
    if (plugin := proposal.build["lora_plugin"]) != "float16":
        return Refusal(f"--lora_plugin is {plugin}, and adapters come in FP16: leave it out")
    return None


@rule("TensorRT-LLM tensorrt_llm/quantization/layers.py: lora is not supported on SmoothQuantLinear")
def smoothquant_takes_no_adapters(proposal: Proposal) -> Verdict:
    """An assertion in the middle of the build."""
    if not proposal.has_adapters or proposal.precision is not Precision.INT8_SQ:
        return None
    return Refusal("SmoothQuant's layers take no adapters: choose fp8, int4-awq or fp16")


@rule(_EXAMPLES)
def no_adapter_is_built_in(proposal: Proposal) -> Verdict:
    """An adapter with an output matrix of its own would put it into the engine, for everybody."""
    if "lora_dir" not in proposal.build:
        return None
    return Refusal("--lora_dir makes an engine for one adapter's embedding and output matrix: leave it out, adapters come with requests")


@rule(_REQUESTS)
def no_dora(proposal: Proposal) -> Verdict:
    """It has a fourth column in `lora_config`, which config.pbtxt does not."""
    if proposal.build.get("dora_plugin", "disable") == "disable":
        return None
    return Refusal("--dora_plugin is for adapters that the contract cannot send: leave it out, and train a plain LoRA")


@rule(_CACHE)
def adapters_are_not_prefetched(proposal: Proposal) -> Verdict:
    """Folders are named by id and read as 32-bit numbers; ours are 64 bits of a digest."""
    if "lora_prefetch_dir" not in proposal.serving:
        return None
    return Refusal("lora_prefetch_dir cannot name adapters by digest: leave it out, weights come with the first request")


@rule("TensorRT-LLM cpp/tensorrt_llm/plugins/loraPlugin/loraPlugin.cpp: ranks and weight pointers are read on the host")
def graphs_hold_no_adapter(proposal: Proposal) -> Verdict:
    """A captured graph would repeat the matrices of the adapter that was there when it was captured."""
    if not proposal.has_adapters or proposal.serving.get("cuda_graph_mode") != "true":
        return None
    corrected = proposal.with_serving(cuda_graph_mode="false")
    return Correction(corrected, "cuda_graph_mode is off: a captured graph would go on with the adapters of the step it was captured in")


@rule(_CACHE)
def caches_hold_an_adapter(proposal: Proposal) -> Verdict:
    """Otherwise Triton does not load the model."""
    if not proposal.has_adapters:
        return None
    needed, memory = proposal.adapter_bytes, proposal.memory
    host = proposal.serving.get("lora_cache_host_memory_bytes", "")
    if not host.isdecimal() or int(host) < needed:
        return Refusal(f"An adapter of rank {proposal.number('max_lora_rank')} takes {needed} bytes: raise lora_cache_host_memory_bytes")
    if memory.adapters < needed:
        return Refusal(
            f"The GPU's adapter cache has {memory.adapters / 1e6:.0f} MB, an adapter takes {needed / 1e6:.0f}: "
            "raise lora_cache_gpu_memory_fraction"
        )
    return None


LORA_RULES = (
    adapters_need_their_plugin,
    adapters_change_known_modules,
    queries_keys_and_values_together,
    adapters_have_the_models_type,
    smoothquant_takes_no_adapters,
    no_adapter_is_built_in,
    no_dora,
    adapters_are_not_prefetched,
    graphs_hold_no_adapter,
)
LORA_MEMORY_RULES = (caches_hold_an_adapter,)
