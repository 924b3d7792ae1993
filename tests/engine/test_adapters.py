"""PEFT's folders become TensorRT-LLM's tensors; what engines cannot serve is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine import adapters, catalogue
from keyahead.engine.contract import Array
from keyahead.engine.store import SetupError
from tests import peft

MODEL = catalogue.get("smollm2-135m")
ONE = {"self_attn.v_proj": peft.SMOL["self_attn.v_proj"], "mlp.down_proj": peft.SMOL["mlp.down_proj"]}


def key(layer: int, module: str, half: str) -> str:
    return f"base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"


def test_rows_are_as_tensorrt_llm_has_them(tmp_path: Path) -> None:
    """Module, layer and rank by row, in the order of layers and modules; A, then B times alpha / rank, then zeros."""
    tensors = peft.matrices(3, layers=(5, 2), modules=ONE)
    adapter = adapters.load(peft.save(tmp_path, tensors), MODEL)
    assert adapter.config.tolist() == [[3, 2, 4], [6, 2, 4], [3, 5, 4], [6, 5, 4]]
    assert (adapter.weights.dtype.name, adapter.config.dtype.name) == ("float16", "int32")
    assert adapter.weights.shape == (4, 4 * (1536 + 576))
    a, b = (tensors[key(2, "self_attn.v_proj", half)] for half in "AB")
    row = np.concatenate([a.reshape(-1), 2.0 * b.reshape(-1)]).astype(np.float16)
    assert np.array_equal(adapter.weights[0, : len(row)], row)
    assert not adapter.weights[0, len(row) :].any()
    assert (adapter.rank, adapter.modules) == (4, frozenset({"v_proj", "down_proj"}))


def test_every_module_has_tensorrt_llms_number(tmp_path: Path) -> None:
    """As in its table of module ids; the gate is the projection `mlp_h_to_4h`."""
    adapter = adapters.load(peft.save(tmp_path, peft.matrices(3, layers=(0,))), MODEL)
    assert adapter.config[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    ids = {name: module.id for name, module in adapters.MODULES.items()}
    assert ids == {"q_proj": 1, "k_proj": 2, "v_proj": 3, "o_proj": 4, "gate_proj": 5, "down_proj": 6, "up_proj": 7}


def test_rank_stabilized_adapters_are_scaled_by_the_root(tmp_path: Path) -> None:
    """Alpha / sqrt(rank), as PEFT does with `use_rslora`."""
    tensors = peft.matrices(3, layers=(0,), modules=ONE)
    plain, stabilized = (
        adapters.load(peft.save(tmp_path / str(flag), tensors, use_rslora=flag), MODEL).weights.astype(np.float32) for flag in (False, True)
    )
    b = slice(4 * 576, 4 * (576 + 192))
    assert np.allclose(stabilized[0, b], 2 * plain[0, b], rtol=2e-3)


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_every_type_of_peft_is_read(values: list[float]) -> None:
    """F32, F16 and BF16 give the numbers that they hold; numpy knows no BF16."""
    exact = np.array(values, dtype=np.float32)
    bf16 = (exact.view(np.uint32) >> 16).astype(np.uint16)
    truncated = (bf16.astype(np.uint32) << 16).view(np.float32)
    for dtype, data, expected in (("F32", exact, exact), ("F16", exact.astype(np.float16), exact), ("BF16", bf16, truncated)):
        assert np.array_equal(adapters._fp32(dtype, data.tobytes()), expected)


def test_the_digest_tells_adapters_apart(tmp_path: Path) -> None:
    """The same weights have the same digest wherever they lie; another matrix, scale or layer has another one, and another task."""
    tensors = peft.matrices(3, layers=(0, 1), modules=ONE)
    changed = tensors | {key(1, "mlp.down_proj", "B"): tensors[key(1, "mlp.down_proj", "B")] + 0.01}
    moved = {name.replace("layers.1.", "layers.2."): tensor for name, tensor in tensors.items()}
    folders = [
        peft.save(tmp_path / "a", tensors),
        peft.save(tmp_path / "b", tensors),
        peft.save(tmp_path / "c", changed),
        peft.save(tmp_path / "d", tensors, lora_alpha=9),
        peft.save(tmp_path / "e", moved),
    ]
    found = [adapters.load(folder, MODEL) for folder in folders]
    assert found[0].digest == found[1].digest
    assert len({each.task_id for each in found}) == len({each.version for each in found}) == 4
    assert all(0 <= each.task_id < 1 << 64 for each in found)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"use_dora": True}, "asks for use_dora,"),
        ({"bias": "lora_only"}, "asks for bias,"),
        ({"modules_to_save": ["lm_head"]}, "asks for modules_to_save,"),
        ({"rank_pattern": {"q_proj": 8}}, "asks for rank_pattern,"),
        ({"init_lora_weights": "pissa"}, "asks for init_lora_weights,"),
        ({"peft_type": "LOHA"}, "asks for peft_type,"),
        ({"base_model_name_or_path": "Qwen/Qwen2.5-Coder-0.5B"}, r"trained on Qwen2.5-Coder-0.5B, not on smollm2-135m"),
        ({"base_model_name_or_path": None}, "trained on an unnamed model"),
        ({"r": 8}, r"do not fit rank 8 and smollm2-135m"),
        ({"lora_alpha": 1e7}, "FP16"),
        ({"r": 0}, "cannot be read as an adapter's configuration"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, config: dict[str, Any], complaint: str) -> None:
    """With the field and the cure."""
    folder = peft.save(tmp_path, peft.matrices(3, layers=(0,), modules=ONE), **config)
    with pytest.raises(SetupError, match=complaint):
        adapters.load(folder, MODEL)


def broken(name: str) -> dict[str, Array]:
    tensors = peft.matrices(3, layers=(0,), modules=ONE)
    a, b = (tensors[key(0, "self_attn.v_proj", half)] for half in "AB")
    changes: dict[str, dict[str, Array]] = {
        "lm_head": {"base_model.model.lm_head.lora_A.weight": a},
        "embedding": {"base_model.model.model.embed_tokens.lora_embedding_A": a},
        "module": {key(0, "self_attn.qkv_proj", "A"): a},
        "layer": {key(30, "self_attn.v_proj", "A"): a, key(30, "self_attn.v_proj", "B"): b},
        "half": {key(1, "self_attn.v_proj", "A"): a},
        "width": {key(0, "self_attn.v_proj", "B"): b[:128]},
        "uneven": {key(1, "mlp.down_proj", "A"): a, key(1, "mlp.down_proj", "B"): b},
    }
    return tensors | changes[name]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("lm_head", r"lm_head.*train only q_proj, k_proj"),
        ("embedding", "embed_tokens.*train only"),
        ("module", "qkv_proj.*train only"),
        ("layer", "adapts layer 30, and smollm2-135m has 30"),
        ("half", "lacks a matrix of layer 1 v_proj"),
        ("width", r"layer 0 v_proj has A \[4, 576\] and B \[128, 4\]"),
        ("uneven", "down_proj has"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(tmp_path: Path, name: str, complaint: str) -> None:
    """The model has no such matrix, or one of another size, or its other half is missing."""
    with pytest.raises(SetupError, match=complaint):
        adapters.load(peft.save(tmp_path, broken(name)), MODEL)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    """Neither file, no whole file, a type that is no number of ours, or no matrix at all."""
    with pytest.raises(SetupError, match=r"adapter_config\.json cannot be read"):
        adapters.load(tmp_path, MODEL)
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft.SMOL_CONFIG))
    with pytest.raises(SetupError, match=r"adapter_model\.safetensors cannot be read"):
        adapters.load(tmp_path, MODEL)
    whole = safetensors.numpy.save({key(0, "self_attn.v_proj", "A"): np.zeros(4, np.int8)})
    for data, complaint in ((whole[:-1], "cannot be read"), (whole, "its type is I8")):
        (tmp_path / "adapter_model.safetensors").write_bytes(data)
        with pytest.raises(SetupError, match=complaint):
            adapters.load(tmp_path, MODEL)
    with pytest.raises(SetupError, match="lacks a matrix of every layer"):
        adapters.load(peft.save(tmp_path, {}), MODEL)
