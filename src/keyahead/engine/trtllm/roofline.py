"""What a plan is expected to need and to take: arithmetic from sizes and peaks, nothing measured.

The roof is what the datasheet allows. The practical figure assumes the efficiencies below, which TensorRT-LLM's published figures for an 8B
model on H100, A100 and RTX 6000 Ada come near to.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyahead.engine.trtllm.gpus import Gpu
from keyahead.engine.trtllm.networks import BYTES_16_BIT, Network
from keyahead.engine.trtllm.precision import Precision

BANDWIDTH_SHARE = 0.7
"""Of the peak, when reading weights."""
FLOPS_SHARE = 0.45
"""Of the peak, when reading a prompt."""
STEP_OVERHEAD_S = 0.4e-3
"""Of each decode step."""
PREFILL_OVERHEAD_S = 1.5e-3
"""Of each step in the context phase; a verification of drafts is one."""
PROMPT_TOKENS = 500
OUTPUT_TOKENS = 24
VERIFY_TOKENS = 24 + 32
"""Drafts, and prompt tokens that the KV cache does not hold."""
CONTEXT_TOKENS = 512
"""KV read in a decode step."""

ASSUMPTIONS = (
    "computed from datasheet peaks and the network's sizes; nothing is measured",
    f"one request alone: {PROMPT_TOKENS} prompt tokens, none in the KV cache, {OUTPUT_TOKENS} tokens decoded one at a time",
    f"practical: a decode step reads at {BANDWIDTH_SHARE:.0%} of the memory bandwidth and takes {STEP_OVERHEAD_S * 1e3:.1f} ms more",
    f"practical: a prefill computes at {FLOPS_SHARE:.0%} of the arithmetic peak and takes {PREFILL_OVERHEAD_S * 1e3:.1f} ms more",
    "verification: one step over 24 drafts and 32 prompt tokens that the KV cache lacks",
    "embedding and output matrix in 16 bits; layers are multiplied in 8 bits with FP8 and INT8 SmoothQuant, else in 16",
    "the 99th percentile: about 1.5 times the total below 30 % load, 2 to 3 times when prefills mix in; Triton and gRPC add 2 to 5 ms",
)


@dataclass(frozen=True, slots=True)
class Latency:
    """Times in seconds."""

    prefill_roof: float
    step_roof: float
    prefill: float
    step: float
    verify: float
    """One step that verifies drafts."""

    @property
    def total_roof(self) -> float:
        """Of a whole request; the prefill gives its first token."""
        return self.prefill_roof + (OUTPUT_TOKENS - 1) * self.step_roof

    @property
    def total(self) -> float:
        """Of a whole request, practically."""
        return self.prefill + (OUTPUT_TOKENS - 1) * self.step


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the GPU."""

    weights: float
    activations: float
    """A rough estimate: the widest layer's tensors for every token of a step, and FP32 rows as wide as the vocabulary for sampling."""
    kv_per_token: int
    kv_pool: float
    """What is left for the KV cache."""
    adapters: float = 0.0
    """The cache of LoRA adapters."""

    @property
    def kv_tokens(self) -> int:
        """Tokens that the pool holds; below 0 if even the weights do not fit."""
        return int(self.kv_pool // self.kv_per_token)


def step_bytes(network: Network, precision: Precision) -> float:
    """Weights read in a step: the layers and the output matrix. A lookup reads next to nothing of the embedding."""
    return network.linear_weights * precision.bytes_per_weight + network.head_weights * BYTES_16_BIT


def latency(network: Network, gpu: Gpu, precision: Precision) -> Latency:
    """The expected times of one request alone."""
    peak = gpu.ops_8_bit if precision.multiplies_in_8_bit else gpu.flops_16_bit
    weights = step_bytes(network, precision)
    queries = network.num_attention_heads * network.head_dim
    # Scores and their product with the values, each 2 operations; half of the square, since a token sees only those before it.
    attention = 2 * PROMPT_TOKENS**2 * queries * network.num_hidden_layers
    compute = (2 * network.linear_weights * PROMPT_TOKENS + attention + 2 * network.head_weights) / peak
    verify_compute = 2 * (network.linear_weights + network.head_weights) * VERIFY_TOKENS / peak
    read = weights / gpu.bandwidth
    step = (weights + CONTEXT_TOKENS * network.kv_bytes_per_token) / gpu.bandwidth
    return Latency(
        prefill_roof=max(compute, read),
        step_roof=step,
        prefill=max(compute / FLOPS_SHARE, read / BANDWIDTH_SHARE) + PREFILL_OVERHEAD_S,
        step=step / BANDWIDTH_SHARE + STEP_OVERHEAD_S,
        verify=max(verify_compute / FLOPS_SHARE, read / BANDWIDTH_SHARE) + PREFILL_OVERHEAD_S,
    )


def memory(
    network: Network,
    gpu: Gpu,
    precision: Precision,
    *,
    step_tokens: int,
    logit_rows: int,
    kv_fraction: float,
    kv_limit: int | None = None,
    lora_fraction: float = 0.0,
) -> Memory:
    """The expected use of the GPU's memory.

    Args:
        network: the model.
        gpu: the card.
        precision: of the weights.
        step_tokens: the engine's `max_num_tokens`.
        logit_rows: rows as wide as the vocabulary: one for each token sampled in a step, and more with drafts.
        kv_fraction: `kv_cache_free_gpu_mem_fraction`.
        kv_limit: `max_tokens_in_paged_kv_cache`; the smaller of the two counts.
        lora_fraction: `lora_cache_gpu_memory_fraction`, which is taken first (TensorRT-LLM's trtGptModelInflightBatching.cpp).

    """
    weights = step_bytes(network, precision)
    if not network.tie_word_embeddings:
        weights += network.head_weights * BYTES_16_BIT
    heads = (network.num_attention_heads + 2 * network.num_key_value_heads) * network.head_dim
    row = BYTES_16_BIT * (2 * network.hidden_size + heads + 2 * network.intermediate_size)
    activations = float(step_tokens * row + logit_rows * network.vocab_size * 4)
    free = gpu.memory_bytes - weights - activations
    adapters = lora_fraction * free
    pool = kv_fraction * (free - adapters)
    if kv_limit is not None:
        pool = min(pool, float(kv_limit * network.kv_bytes_per_token))
    return Memory(weights, activations, network.kv_bytes_per_token, pool, adapters)
