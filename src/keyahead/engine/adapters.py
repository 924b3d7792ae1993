"""LoRA adapters: from the folder that Hugging Face's PEFT saves to the tensors that an engine takes.

The tensors are TensorRT-LLM's (its docs/source/advanced/lora.md). A row stands for one matrix of one layer and holds A `[rank, in]` and B
`[out, rank]`, flattened, one behind the other, and zeros up to the longest row. B is scaled already, so an engine adds B(A(x)) as it is.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import safetensors
from msgspec import Meta

from keyahead.engine.catalogue import Model
from keyahead.engine.contract import Array
from keyahead.engine.store import SetupError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

DIGEST_CHARS = 12
"""Of an adapter's digest, in names; as many as of a model's weights."""
_TENSOR = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight")
_DTYPES: Mapping[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16}
_PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal"})
"""Ways to begin training that leave the base model's own weights as they are (PEFT, `LoraConfig.init_lora_weights`)."""


@dataclass(frozen=True, slots=True)
class Module:
    """A matrix of a layer that an adapter can change."""

    id: int
    """Of `lora_config`."""
    name: str
    """TensorRT-LLM's, as `--lora_target_modules` has it."""


MODULES: Mapping[str, Module] = {
    "q_proj": Module(1, "attn_q"),
    "k_proj": Module(2, "attn_k"),
    "v_proj": Module(3, "attn_v"),
    "o_proj": Module(4, "attn_dense"),
    "gate_proj": Module(5, "mlp_h_to_4h"),
    "down_proj": Module(6, "mlp_4h_to_h"),
    "up_proj": Module(7, "mlp_gate"),
}
"""By Hugging Face's names for Llama and Qwen2. Numbers and names: TensorRT-LLM's docs/source/advanced/lora.md and lora_manager.py, where
the *gate* goes to `mlp_h_to_4h` and the up projection to `mlp_gate`."""


class _Config(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of adapter_config.json; the fields are PEFT's."""

    peft_type: str
    r: Annotated[int, Meta(ge=1)]
    lora_alpha: Annotated[float, Meta(gt=0)]
    base_model_name_or_path: str | None = None
    use_rslora: bool = False
    bias: str = "none"
    use_dora: bool = False
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    init_lora_weights: bool | str | None = True
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    layer_replication: list[object] | None = None
    trainable_token_indices: object = None

    @property
    def scale(self) -> float:
        """What B(A(x)) is multiplied with."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def unsupported(self) -> list[str]:
        """What it asks for beyond the two matrices, by the names of its fields."""
        plain = not isinstance(self.init_lora_weights, str) or self.init_lora_weights in _PLAIN_STARTS
        asked = {
            "peft_type": self.peft_type != "LORA",
            "bias": self.bias != "none",
            "init_lora_weights": not plain,
        }
        names = "use_dora fan_in_fan_out lora_bias modules_to_save rank_pattern alpha_pattern layer_replication trainable_token_indices"
        asked |= {name: bool(getattr(self, name)) for name in names.split()}
        return sorted(name for name, is_asked in asked.items() if is_asked)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One adapter, ready to be sent."""

    digest: str
    """Of all that it changes, in hexadecimal: two adapters with the same digest answer alike."""
    rank: int
    modules: frozenset[str]
    """The names in `MODULES`."""
    packed: bytes
    """`weights`, as they are sent."""
    config: Array
    """INT32 [matrices, 3]: module, layer, rank."""

    @property
    def weights(self) -> Array:
        """FP16 [matrices, the longest row]; not a copy."""
        return np.frombuffer(self.packed, np.float16).reshape(len(self.config), -1)

    @property
    def task_id(self) -> int:
        """What engines know it by: 64 bits of the digest, so changed weights are another task, with a cache and KV of its own."""
        return int(self.digest[:16], 16)

    @property
    def version(self) -> str:
        """What people know it by."""
        return self.digest[:DIGEST_CHARS]


def load(folder: Path, model: Model) -> Adapter:
    """The adapter in a folder as PEFT saves it. Raises SetupError for one that is broken, or not of this model, or of an unknown kind."""
    config = _read_config(folder)
    if config.unsupported:
        raise SetupError(
            f"{folder / CONFIG} asks for {', '.join(config.unsupported)}, which engines do not serve: "
            "train a plain LoRA, or merge the adapter into a model of its own."
        )
    base = (config.base_model_name_or_path or "").rstrip("/").rpartition("/")[2]
    if model.name not in base.lower():
        raise SetupError(
            f"The adapter in {folder} was trained on {base or 'an unnamed model'}, not on {model.name}: use one of that model, or, "
            f"if it is the same under another name, correct base_model_name_or_path in {CONFIG}."
        )
    pairs = _pairs(folder, _read_tensors(folder / WEIGHTS), model)
    _check_shapes(folder, pairs, config.r, model)
    return _packed(folder, pairs, config, model)


_Pairs = dict[tuple[int, str], dict[str, Array]]
"""By layer and module: the matrices A and B."""


def _read_config(folder: Path) -> _Config:
    path = folder / CONFIG
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Config)
    except (OSError, msgspec.DecodeError) as error:
        raise SetupError(f"{path} cannot be read as an adapter's configuration ({error}): pass a folder that PEFT has saved.") from error


def _read_tensors(path: Path) -> dict[str, Array]:
    """All tensors in FP32. The low-level reader is used since numpy has no BF16, in which most adapters are saved."""
    try:
        raw = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        return {name: _fp32(tensor["dtype"], bytes(tensor["data"])).reshape(tensor["shape"]) for name, tensor in raw}
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise SetupError(f"{path} cannot be read as an adapter's weights ({error}): save the adapter again, as safetensors.") from error


def _fp32(dtype: str, data: bytes) -> Array:
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype not in _DTYPES:
        raise ValueError(f"its type is {dtype}, expected F32, F16 or BF16")
    return np.frombuffer(data, _DTYPES[dtype]).astype(np.float32)


def _pairs(folder: Path, tensors: Mapping[str, Array], model: Model) -> _Pairs:
    pairs: _Pairs = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] not in MODULES:
            raise SetupError(
                f"{folder} adapts {name}, which {model.name} has not or engines cannot adapt: train only {', '.join(MODULES)}."
            )
        if int(match[1]) >= model.layers:
            raise SetupError(f"{folder} adapts layer {match[1]}, and {model.name} has {model.layers}: use an adapter of that model.")
        pairs.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    halves = [f"layer {layer} {module}" for (layer, module), pair in pairs.items() if len(pair) < len("AB")]
    if halves or not pairs:
        raise SetupError(f"{folder} lacks a matrix of {halves[0] if halves else 'every layer'}: save the adapter again.")
    return pairs


def _check_shapes(folder: Path, pairs: _Pairs, rank: int, model: Model) -> None:
    """Ranks as configured, and the same sizes in every layer; keys and values have the width of the model's."""
    kv_width = model.kv_heads * model.head_size
    sizes = {module: (pair["A"].shape[-1], pair["B"].shape[0]) for (_, module), pair in pairs.items()}
    for (layer, module), pair in pairs.items():
        width_in, width_out = sizes[module]
        right = pair["A"].shape == (rank, width_in) and pair["B"].shape == (width_out, rank)
        if not right or (module in {"k_proj", "v_proj"} and width_out != kv_width):
            raise SetupError(
                f"{folder}: layer {layer} {module} has A {list(pair['A'].shape)} and B {list(pair['B'].shape)}, "
                f"which do not fit rank {rank} and {model.name}: use an adapter of that model."
            )


def _packed(folder: Path, pairs: _Pairs, config: _Config, model: Model) -> Adapter:
    ordered = sorted(pairs.items(), key=lambda item: (item[0][0], MODULES[item[0][1]].id))
    rows = [np.concatenate([pair["A"].reshape(-1), pair["B"].reshape(-1) * config.scale]) for _, pair in ordered]
    weights = np.zeros((len(rows), max(map(len, rows))), dtype=np.float16)
    with np.errstate(over="ignore"):  # Looked for below.
        for target, row in zip(weights, rows, strict=True):
            target[: len(row)] = row
    if not np.isfinite(weights).all():
        raise SetupError(f"{folder / WEIGHTS} has numbers that FP16, the format of engines, does not hold: train with a smaller scale.")
    table = np.array([(MODULES[module].id, layer, config.r) for (layer, module), _ in ordered], dtype=np.int32)
    packed = weights.tobytes()
    digest = hashlib.sha256(f"{model.name}:{model.sha256}:{weights.shape}".encode() + table.tobytes() + packed).hexdigest()
    return Adapter(digest, config.r, frozenset(module for _, module in pairs), packed, table)
