"""The GPUs that a plan can be made for.

Peaks are dense, without sparsity, and the SXM card's where there are others, too. Compute capabilities are those of NVIDIA's list of CUDA
GPUs. For memory, bandwidth and peaks, NVIDIA's own table of datasheet figures was read, with the datasheets it names: TensorRT-LLM
tensorrt_llm/auto_parallel/cluster_info.py 16d2467e.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from keyahead.engine.store import SetupError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One type of card; an engine built on it runs on no other."""

    name: str
    product: str
    """Pattern of the whole name that nvidia-smi prints."""
    compute_capability: str
    memory_bytes: float
    bandwidth: float
    """Bytes a second."""
    flops_16_bit: float
    """Operations a second, FP16 or BF16."""
    ops_8_bit: float
    """Operations a second in the 8-bit format that it has: FP8 from compute capability 8.9 on, else INT8."""

    @property
    def sm(self) -> int:
        """The compute capability as TensorRT-LLM writes it: 89 for 8.9."""
        return int(self.compute_capability.replace(".", ""))

    def is_called(self, product: str) -> bool:
        """Whether nvidia-smi's name is one of this type."""
        return re.fullmatch(self.product, product) is not None


_GPUS = (
    # l4-datasheet-2595652 has 242 and 485 with sparsity; the table rounds half of the former down to 120.
    Gpu("l4", r"NVIDIA L4", "8.9", 24e9, 300e9, 121e12, 242e12),
    # nvidia-a10-datasheet
    Gpu("a10", r"NVIDIA A10", "8.6", 24e9, 600e9, 125e12, 250e12),
    # nvidia-a100-datasheet-us-nvidia-1758950-r4; PCIe: 1935e9 bytes a second; 40 GB: 1555e9, and no plan.
    Gpu("a100", r"NVIDIA A100.*80GB.*", "8.0", 80e9, 2039e9, 312e12, 624e12),
    # nvidia-tensor-core-gpu-datasheet; PCIe: 2000e9, 756e12, 1513e12.
    Gpu("h100", r"NVIDIA H100.*", "9.0", 80e9, 3350e9, 989e12, 1979e12),
)
GPUS = {gpu.name: gpu for gpu in _GPUS}


def get(name: str) -> Gpu:
    """The GPU of that name; SetupError lists the names if there is none."""
    if name not in GPUS:
        raise SetupError(f"There is no plan for the GPU {name!r}: choose one of {', '.join(GPUS)}.")
    return GPUS[name]
