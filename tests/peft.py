"""LoRA adapters as PEFT saves them, with random matrices: strong enough to change what a model says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from keyahead.engine.contract import Array

SMOL = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (576, 192),
    "self_attn.v_proj": (576, 192),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (576, 1536),
    "mlp.up_proj": (576, 1536),
    "mlp.down_proj": (1536, 576),
}
"""How many values go into each matrix of smollm2-135m and come out."""
SMOL_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"}


def matrices(
    seed: int, *, rank: int = 4, layers: Iterable[int] = (0, 7, 29), modules: Mapping[str, tuple[int, int]] = SMOL
) -> dict[str, Array]:
    """A and B of each module in each layer, by the names that PEFT gives them."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for layer in layers:
        for module, (width_in, width_out) in modules.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = (random.standard_normal((rank, width_in)) / np.sqrt(width_in)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = (random.standard_normal((width_out, rank)) * 0.3).astype(np.float32)
    return tensors


def save(folder: Path, tensors: Mapping[str, Array], **config: Any) -> Path:
    """The folder, with SMOL_CONFIG changed by `config`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(SMOL_CONFIG | config))
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    return folder
