"""In which formats an engine keeps its weights and its KV cache."""

from __future__ import annotations

import enum


class Precision(enum.StrEnum):
    """Format of the layers' weights; embedding and output matrix stay in 16 bits."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    """Weights and activations."""
    INT8_SQ = "int8-sq"
    """SmoothQuant: weights and activations."""
    INT4_AWQ = "int4-awq"
    """Weights alone, in groups of 128; activations are FP16."""

    @property
    def bytes_per_weight(self) -> float:
        """Of a layer's matrix. AWQ has a scale of 16 bits, and rounding, to each group of 128."""
        return {"fp8": 1, "int8-sq": 1, "int4-awq": 0.53}.get(self, 2)

    @property
    def multiplies_in_8_bit(self) -> bool:
        """Whether matrices are multiplied at the GPU's 8-bit rate."""
        return self in {Precision.FP8, Precision.INT8_SQ}

    @property
    def needs_calibration(self) -> bool:
        """Whether it is made by running sample text through the model."""
        return self not in {Precision.BF16, Precision.FP16}

    @property
    def dtype(self) -> str:
        """What is not quantized, as TensorRT-LLM's `--dtype` names it."""
        return "bfloat16" if self in {Precision.BF16, Precision.FP8} else "float16"


class KvCache(enum.StrEnum):
    """Format of keys and values."""

    MODEL = "16-bit"
    """The format of what is not quantized."""
    INT8 = "int8"
    FP8 = "fp8"
