"""A GPU is told by the name that nvidia-smi prints."""

from __future__ import annotations

import pytest

from keyahead.engine.trtllm import gpus


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA L40S", None),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB", None),
    ],
)
def test_names(product: str, name: str | None) -> None:
    """A similar card is another card: its engine, its memory and its peaks differ."""
    assert [gpu.name for gpu in gpus.GPUS.values() if gpu.is_called(product)] == ([name] if name else [])
