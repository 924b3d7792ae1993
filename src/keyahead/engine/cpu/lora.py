"""The LoRA adapters whose weights have come to the CPU engine: checked, bounded, and forgotten in turn, as TensorRT-LLM's cache does."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keyahead.engine.contract import NOT_CACHED, Array, ContractError, EngineRequest

Site = tuple[int, int]
"""A matrix: its module's number and its layer, as in `lora_config`."""
Sites = Mapping[Site, tuple[int, int]]
"""How many values go into each matrix and come out."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """An adapter as the model takes it."""

    digest: str
    """Of the tensors that were sent: what its KV is known by."""
    inputs: Mapping[str, Array]
    """FP32, by the name of the model's input."""
    num_bytes: int


def names(site: Site) -> tuple[str, str]:
    """The inputs A and B of a matrix."""
    module, layer = site
    return f"lora_a.{module}.{layer}", f"lora_b.{module}.{layer}"


def no_adapter(sites: Sites) -> Loaded:
    """What a step without an adapter is computed with."""
    return _loaded("", {}, sites)


def _loaded(digest: str, pairs: Mapping[Site, tuple[Array, Array]], sites: Sites) -> Loaded:
    inputs: dict[str, Array] = {}
    for site, (width_in, width_out) in sites.items():
        pair = pairs.get(site) or (np.zeros((0, width_in), np.float32), np.zeros((width_out, 0), np.float32))
        inputs |= zip(names(site), pair, strict=True)
    return Loaded(digest, inputs, sum(array.nbytes for array in inputs.values()))


class Adapters:
    """The adapters that the engine has, the least recently used first out. May be called from any thread."""

    def __init__(self, sites: Sites, max_rank: int, capacity: int) -> None:
        """`capacity`: bytes of all that are known together. Sequences keep a forgotten one until they end."""
        self._sites = sites
        self._max_rank = max_rank
        self._capacity = capacity
        self._known: OrderedDict[int, Loaded] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, request: EngineRequest) -> Loaded | None:
        """The adapter of a request, None if it asks for none. ContractError if it is not known or not fit."""
        task_id = request.lora_task_id
        if task_id is None:
            if request.lora_weights is not None or request.lora_config is not None:
                raise ContractError("lora_task_id: required with lora_weights and lora_config")
            return None
        if not self._sites:
            raise ContractError("lora_task_id: this engine was started without adapters: set its parameter max_lora_rank")
        with self._lock:
            if request.lora_weights is None or request.lora_config is None:
                if task_id not in self._known:
                    raise ContractError(f"lora_task_id: LoRA task {task_id} {NOT_CACHED}")
            else:
                self._keep(task_id, request.lora_weights, request.lora_config)
            self._known.move_to_end(task_id)
            return self._known[task_id]

    def _keep(self, task_id: int, weights: Array, config: Array) -> None:
        digest = hashlib.sha256(repr(weights.shape).encode() + config.tobytes() + weights.tobytes()).hexdigest()
        if task_id in self._known:
            if self._known[task_id].digest != digest:
                raise ContractError(f"lora_task_id: LoRA task {task_id} has other weights already: give these another id")
            return
        pairs = self._pairs(weights, config)
        needed = sum(a.nbytes + b.nbytes for a, b in pairs.values())
        if needed > self._capacity:
            raise ContractError(f"lora_weights: {needed} bytes, expected at most {self._capacity}, the parameter lora_cache_mb")
        while self._held() + needed > self._capacity:
            self._known.popitem(last=False)
        self._known[task_id] = _loaded(digest, pairs, self._sites)

    def _held(self) -> int:
        return sum(loaded.num_bytes for loaded in self._known.values())

    def _pairs(self, weights: Array, config: Array) -> dict[Site, tuple[Array, Array]]:
        """A and B of each matrix, in FP32."""
        if len(weights) != len(config) or config.shape[1] != 3:
            raise ContractError(f"lora_config: shape {list(config.shape)}, expected a row of 3 for each of {len(weights)} matrices")
        pairs = {}
        for row, (module, layer, rank) in zip(weights, config.tolist(), strict=True):
            if (module, layer) not in self._sites or (module, layer) in pairs:
                raise ContractError(f"lora_config: module {module} of layer {layer} is not in this model, or comes twice")
            if not 1 <= rank <= self._max_rank:
                raise ContractError(f"lora_config: rank {rank}, expected 1 to {self._max_rank}, the parameter max_lora_rank")
            width_in, width_out = self._sites[module, layer]
            size_a, size = rank * width_in, rank * (width_in + width_out)
            if len(row) < size:
                raise ContractError(f"lora_weights: {len(row)} values in a row, expected at least {size} for module {module}, rank {rank}")
            pairs[module, layer] = (
                row[:size_a].reshape(rank, width_in).astype(np.float32),
                row[size_a:size].reshape(width_out, rank).astype(np.float32),
            )
        return pairs
