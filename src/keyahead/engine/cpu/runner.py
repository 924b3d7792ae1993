"""The OpenVINO model with paged attention: computes a step and returns logits where they are wanted."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13

# Private, hence OpenVINO is pinned exactly and tests/engine/cpu/test_loop.py compares with openvino_genai (docs/adr/0002).
from openvino._offline_transformations import paged_attention_transformation

from keyahead.engine.contract import BLOCK_TOKENS, Array
from keyahead.engine.cpu.branches import add_branches
from keyahead.engine.cpu.lora import Loaded, no_adapter
from keyahead.engine.cpu.scheduler import Slice, Step

log = logging.getLogger(__name__)

# 16 bits for the KV cache: as fast here as 8 (docs/design.md), exact under copying, and the same however a prompt was cut into chunks,
# which 8-bit keys, quantized over the tokens of a block, are not.
_CONFIG = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "KV_CACHE_PRECISION": "f16"}


def _paged(core: ov.Core, folder: Path) -> ov.Model:
    """Read a converted model, page its attention, and gather in front of the last MatMul, so that only wanted logits cost."""
    model = core.read_model(folder / "openvino_model.xml")
    paged_attention_transformation(model)
    head = model.outputs[0].get_node().input(0).get_source_output().get_node()
    if head.get_type_name() != "MatMul":
        raise RuntimeError(f"{folder.name}: the model does not end in a MatMul but in {head.get_type_name()}, so it cannot be gathered")
    wanted = opset13.parameter([-1], np.int64, name="logit_rows")
    wanted.output(0).tensor.names = {"logit_rows"}
    hidden = head.input(0).get_source_output()
    head.input(0).replace_source_output(opset13.gather(hidden, wanted, opset13.constant(np.int64(0))).output(0))
    model.add_parameters([wanted])
    model.validate_nodes_and_infer_types()
    return model


def _fingerprint(folder: Path, compiled: ov.CompiledModel) -> bytes:
    """A digest of the conversion's manifest, OpenVINO's build, the KV inputs, and the precision and instructions it computes with."""
    layout = sorted(f"{port.any_name} {port.element_type} {port.partial_shape}" for port in compiled.inputs if "_cache." in port.any_name)
    arithmetic = [
        str(compiled.get_property("INFERENCE_PRECISION_HINT")),
        *sorted(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
    ]
    parts = [(folder / "manifest.json").read_text(), ov.get_version(), *layout, *arithmetic]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).digest()


def _offsets(lengths: list[int]) -> Array:
    return np.cumsum([0, *lengths], dtype=np.int32)


class Runner:
    """One compiled model and its KV memory."""

    def __init__(self, folder: Path, num_blocks: int, threads: int = 0, *, exact: bool = False, adapters: bool = False) -> None:
        """With `exact` it computes in FP32 even where the processor has BF16: slower, but what else is in a step then changes no token.

        With `adapters` a step can be computed with one, and any step takes a little longer.
        """
        core = ov.Core()
        model = _paged(core, folder)
        self.sites = add_branches(model) if adapters else {}
        """The matrices that an adapter can change."""
        config = _CONFIG | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
        config |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"} if exact else {}
        compiled = core.compile_model(model, "CPU", config)
        self._request = compiled.create_infer_request()
        self._bare = no_adapter(self.sites)
        self._adapter: Loaded | None = None
        """Whose matrices are set."""
        self._caches = [self._allocate(port, num_blocks) for port in compiled.inputs if "_cache." in port.any_name]
        self.vocab_size = int(compiled.outputs[0].partial_shape[-1].get_length())
        self.bytes_per_block = sum(cache[0].nbytes for cache in self._caches)
        self.fingerprint = _fingerprint(folder, compiled)
        """Differs wherever the bytes of a block could mean something else: weights, versions, arithmetic, layout."""

    def _allocate(self, port: ov.ConstOutput, num_blocks: int) -> Array:
        shape = [num_blocks, *(dimension.get_length() for dimension in list(port.partial_shape)[1:])]
        if shape[2] != BLOCK_TOKENS:
            raise RuntimeError(f"{port.any_name}: OpenVINO's blocks hold {shape[2]} tokens, the contract's {BLOCK_TOKENS}")
        tensor = ov.Tensor(port.element_type, ov.Shape(shape))
        self._request.set_tensor(port.any_name, tensor)
        data: Array = tensor.data
        data[:] = 0
        return data

    def read_block(self, index: int) -> bytes:
        """A copy of a block's KV, all layers in the model's order; not while a step is computed."""
        return b"".join(cache[index].tobytes() for cache in self._caches)

    def write_block(self, index: int, payload: bytes) -> None:
        """Put in place what `read_block` gave; not while a step is computed."""
        offset = 0
        for cache in self._caches:
            rows = cache[index]
            rows[...] = np.frombuffer(payload, rows.dtype, rows.size, offset).reshape(rows.shape)
            offset += rows.nbytes

    def start(self, step: Step) -> None:
        """Copy what the step copies and begin to compute; `finish` waits for it."""
        for copy in step.copies:
            for cache in self._caches:
                cache[copy.target] = cache[copy.source]
        for name, value in _inputs(step.slices).items():
            self._request.set_tensor(name, ov.Tensor(value))
        self._apply(step.slices[0].sequence.adapter or self._bare)
        self._request.start_async()

    def _apply(self, adapter: Loaded) -> None:
        if adapter is not self._adapter:
            self._adapter = adapter
            for name, array in adapter.inputs.items():
                self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))

    def finish(self) -> Array:
        """Logits, FP32 [rows, vocabulary], valid until the next `start`; rows in the order of the slices that sample."""
        self._request.wait()
        logits: Array = self._request.get_output_tensor(0).data
        return logits.reshape(-1, self.vocab_size)


def _inputs(slices: list[Slice]) -> dict[str, Array]:
    lengths = [len(piece.tokens) for piece in slices]
    begins = _offsets(lengths)
    # Only the blocks in use: a sequence may hold more than this slice reaches.
    blocks = [piece.blocks[: -(-(piece.start + length) // BLOCK_TOKENS)] for piece, length in zip(slices, lengths, strict=True)]
    rows = [
        row
        for piece, begin, length in zip(slices, begins, lengths, strict=False)
        if piece.samples
        for row in range(begin + length - 1 - piece.num_drafts, begin + length)
    ]
    return {
        "input_ids": np.array([token for piece in slices for token in piece.tokens], dtype=np.int64),
        "position_ids": np.concatenate([np.arange(piece.start, piece.start + len(piece.tokens), dtype=np.int64) for piece in slices]),
        "past_lens": np.array([piece.start for piece in slices], dtype=np.int32),
        "subsequence_begins": begins,
        "block_indices": np.array([index for indices in blocks for index in indices], dtype=np.int32),
        "block_indices_begins": _offsets([len(indices) for indices in blocks]),
        "max_context_len": np.array(max(piece.start + len(piece.tokens) for piece in slices), dtype=np.int32),
        "logit_rows": np.array(rows, dtype=np.int64),
    }


def timed(runner: Runner, step: Step) -> float:
    """Milliseconds that a step takes."""
    begin = time.perf_counter()
    runner.start(step)
    runner.finish()
    return (time.perf_counter() - begin) * 1e3
