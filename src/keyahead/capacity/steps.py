"""How long one forward pass takes, by what is in it: measured on a processor, a roofline on a GPU."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

from keyahead.engine.trtllm import roofline
from keyahead.engine.trtllm.gpus import Gpu
from keyahead.engine.trtllm.networks import Network
from keyahead.engine.trtllm.precision import Precision


class StepTime(Protocol):
    """Seconds of a step."""

    def __call__(self, tokens: float, sequences: int) -> float:
        """`tokens` computed for so many sequences, their last known tokens, drafts and prompts together."""


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """Straight lines between measured sizes, the last one continued. What counts is the tokens, in however many sequences."""

    tokens: tuple[float, ...]
    seconds: tuple[float, ...]

    def __call__(self, tokens: float, sequences: int) -> float:  # noqa: ARG002 - of a protocol
        """See StepTime."""
        after = min(max(1, bisect_left(self.tokens, tokens)), len(self.tokens) - 1)
        low, high, below, above = self.tokens[after - 1], self.tokens[after], self.seconds[after - 1], self.seconds[after]
        return below + (above - below) * (max(tokens, self.tokens[0]) - low) / (high - low)


@dataclass(frozen=True, slots=True)
class RooflineSteps:
    """The slower of reading weights and KV, and computing, at the efficiencies that `engine/trtllm/roofline.py` assumes."""

    network: Network
    gpu: Gpu
    precision: Precision
    context_tokens: int = roofline.CONTEXT_TOKENS
    """KV that each sequence reads in a step."""

    def __call__(self, tokens: float, sequences: int) -> float:
        """See StepTime. Logits are computed for the last token of each sequence."""
        network = self.network
        peak = self.gpu.ops_8_bit if self.precision.multiplies_in_8_bit else self.gpu.flops_16_bit
        read = roofline.step_bytes(network, self.precision) + sequences * self.context_tokens * network.kv_bytes_per_token
        operations = 2 * (network.linear_weights * tokens + network.head_weights * sequences)
        overhead_s = roofline.PREFILL_OVERHEAD_S if tokens > sequences else roofline.STEP_OVERHEAD_S
        return max(read / self.gpu.bandwidth / roofline.BANDWIDTH_SHARE, operations / peak / roofline.FLOPS_SHARE) + overhead_s
