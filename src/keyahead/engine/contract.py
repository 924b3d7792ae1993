"""The engine contract: the tensors of the Triton model `tensorrt_llm`, once.

Names, types, shapes and meaning are TensorRT-LLM 1.2's (its `inflight_batcher_llm/tensorrt_llm/config.pbtxt`, the part keyahead uses). The
service encodes requests with this module, the CPU engine decodes them with it, and both Triton repositories are generated from it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

MODEL_NAME = "tensorrt_llm"
BLOCK_TOKENS = 32
"""Tokens in a KV block, TensorRT-LLM's default `--tokens_per_block`."""

MAX_DRAFTS = 24
"""Drafts verified in one step at most: the CPU engine's limit, and the `--max_draft_len` to build a TensorRT-LLM engine with."""
Array = npt.NDArray[Any]

DTYPES: Mapping[str, type[np.generic]] = {
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "BOOL": np.bool_,
}


class ContractError(ValueError):
    """A tensor or parameter breaks the contract; the message begins with its name."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as `config.pbtxt` declares it."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    """Shape without the batch dimension; -1 is any length."""
    optional: bool = True
    scalar: bool = False
    """Declared with `reshape: {shape: []}`: a client sends shape [1, 1]."""


INPUTS: tuple[Tensor, ...] = (
    Tensor("input_ids", "INT32", (-1,)),
    Tensor("input_lengths", "INT32", (1,), optional=False, scalar=True),
    Tensor("request_output_len", "INT32", (1,), optional=False, scalar=True),
    Tensor("draft_input_ids", "INT32", (-1,)),
    Tensor("end_id", "INT32", (1,), scalar=True),
    Tensor("pad_id", "INT32", (1,), scalar=True),
    Tensor("stop_words_list", "INT32", (2, -1)),
    Tensor("embedding_bias", "FP32", (-1,)),
    Tensor("runtime_top_k", "INT32", (1,), scalar=True),
    Tensor("runtime_top_p", "FP32", (1,), scalar=True),
    Tensor("temperature", "FP32", (1,), scalar=True),
    Tensor("seed", "UINT64", (1,), scalar=True),
    Tensor("streaming", "BOOL", (1,), scalar=True),
    Tensor("stop", "BOOL", (1,), scalar=True),
    Tensor("exclude_input_in_output", "BOOL", (1,), scalar=True),
    Tensor("return_log_probs", "BOOL", (1,), scalar=True),
    Tensor("return_perf_metrics", "BOOL", (1,), scalar=True),
    Tensor("lora_task_id", "UINT64", (1,), scalar=True),
    Tensor("lora_weights", "FP16", (-1, -1)),
    Tensor("lora_config", "INT32", (-1, 3)),
)

PERF_OUTPUTS: tuple[Tensor, ...] = (
    Tensor("kv_cache_alloc_new_blocks", "INT32", (1,)),
    Tensor("kv_cache_reused_blocks", "INT32", (1,)),
    Tensor("kv_cache_alloc_total_blocks", "INT32", (1,)),
    Tensor("arrival_time_ns", "INT64", (1,)),
    Tensor("first_scheduled_time_ns", "INT64", (1,)),
    Tensor("first_token_time_ns", "INT64", (1,)),
    Tensor("last_token_time_ns", "INT64", (1,)),
    Tensor("acceptance_rate", "FP32", (1,)),
    Tensor("total_accepted_draft_tokens", "INT32", (1,)),
    Tensor("total_draft_tokens", "INT32", (1,)),
)

OUTPUTS: tuple[Tensor, ...] = (
    Tensor("output_ids", "INT32", (-1, -1)),
    Tensor("sequence_length", "INT32", (-1,)),
    Tensor("cum_log_probs", "FP32", (-1,)),
    Tensor("output_log_probs", "FP32", (-1, -1)),
    *PERF_OUTPUTS,
)

_INPUT_BY_NAME, _OUTPUT_BY_NAME = ({each.name: each for each in tensors} for tensors in (INPUTS, OUTPUTS))

NOT_CACHED = "not found in cache. Please send LoRA weights with request"
"""How TensorRT-LLM's error for a `lora_task_id` ends whose weights it does not have, or not any more (its peftCacheManager.cpp)."""

# Request parameters (not tensors) that the CPU engine reads and the GPU backend ignores.
PARAM_DEADLINE_MS = "deadline_ms"
"""Milliseconds from arrival by which the work is worthless: the order of scheduling, and the end of the sequence."""
PARAM_NAMESPACE = "cache_namespace"
"""KV is shared only between requests of one namespace, and engine time is divided fairly between namespaces."""
PARAM_CLASS = "work_class"
"""A `WorkClass`: who waits for the work."""
PARAM_WEIGHT = "share_weight"
"""The namespace's part of the engine's time against that of the others, from 1 on."""


class WorkClass(enum.StrEnum):
    """Who waits for the work; the values of `work_class`."""

    MANUAL = "manual"
    """Somebody has asked by hand."""
    AUTOMATIC = "automatic"
    """An editor has asked while its user typed."""
    WARMING = "warming"
    """The tenant's next requests: a prompt is read ahead of them, within the tenant's share but behind all it has asked for."""
    BACKGROUND = "background"
    """Nobody yet: prefetch, which runs only when nothing else wants the engine."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to decode, or, with `stop`, the order to end the one of the same request id."""

    input_ids: tuple[int, ...] = ()
    max_new_tokens: int = 1
    draft_ids: tuple[int, ...] = ()
    end_id: int | None = None
    pad_id: int | None = None
    stop_words: tuple[tuple[int, ...], ...] = ()
    embedding_bias: Array | None = None
    """FP32 [vocabulary], added to the logits of every step."""
    top_k: int = 1
    """1 is greedy; 0 is the whole vocabulary."""
    top_p: float = 0.0
    """At or below 0 counts as unset."""
    temperature: float = 1.0
    seed: int = 0
    streaming: bool = False
    stop: bool = False
    exclude_input: bool = True
    return_log_probs: bool = False
    return_perf_metrics: bool = False
    lora_task_id: int | None = None
    """The adapter to decode with; the first request with it brings the two tensors below, the others may leave them out."""
    lora_weights: Array | None = None
    """FP16 [matrices, row]."""
    lora_config: Array | None = None
    """INT32 [matrices, 3]: module, layer, rank of each row (`adapters.py`)."""
    deadline_ms: int | None = None
    namespace: str = ""
    work_class: WorkClass = WorkClass.AUTOMATIC
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Perf:
    """The `return_perf_metrics` group; times are nanoseconds on the engine's monotonic clock."""

    new_blocks: int = 0
    reused_blocks: int = 0
    total_blocks: int = 0
    arrival_ns: int = 0
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    acceptance_rate: float = 0.0
    accepted_drafts: int = 0
    drafts: int = 0


@dataclass(frozen=True, slots=True)
class EngineResponse:
    """New tokens of a sequence: a delta when streaming, else everything."""

    output_ids: tuple[int, ...]
    log_probs: tuple[float, ...] | None = None
    perf: Perf | None = field(default=None)


def _scalar(name: str, value: Any) -> Array:
    return np.array([[value]], dtype=DTYPES[_INPUT_BY_NAME[name].datatype])


def _ids(ids: Sequence[int]) -> Array:
    return np.array([ids], dtype=np.int32)


def encode_stop_words(words: Iterable[Sequence[int]]) -> Array:
    """TensorRT-LLM's coding, [1, 2, n]: all ids concatenated, and the end offset of each word, padded with -1."""
    ids: list[int] = []
    ends: list[int] = []
    for word in words:
        ids.extend(word)
        ends.append(len(ids))
    return np.array([[ids, ends + [-1] * (len(ids) - len(ends))]], dtype=np.int32)


def decode_stop_words(array: Array) -> tuple[tuple[int, ...], ...]:
    """The words of a `stop_words_list`; ContractError when the offsets do not make sense."""
    if array.ndim != 3 or array.shape[:2] != (1, 2):
        raise ContractError(f"stop_words_list: shape {list(array.shape)}, expected [1, 2, n]")
    ids, ends = array[0].tolist()
    words, start = [], 0
    for end in ends:
        if end == -1:
            break
        if not start < end <= len(ids):
            raise ContractError(f"stop_words_list: end offset {end} after {start} is not within 1..{len(ids)} and increasing")
        words.append(tuple(ids[start:end]))
        start = end
    return tuple(words)


def _require_sound(request: EngineRequest) -> None:
    """What a TensorRT-LLM 1.2 engine answers with a crash, an error or something else than was meant; sources are in docs/gpu.md."""
    if request.max_new_tokens < 1:
        raise ContractError(f"request_output_len: {request.max_new_tokens}, expected at least 1")
    if len(request.draft_ids) > MAX_DRAFTS:
        raise ContractError(f"draft_input_ids: {len(request.draft_ids)} drafts, but engines are built for {MAX_DRAFTS}: send fewer")
    if request.streaming and request.draft_ids:
        raise ContractError("draft_input_ids: a request with drafts is one step and gives one response: send it without streaming")
    if request.streaming and request.return_log_probs:
        raise ContractError("return_log_probs: cancelling a stream that has them crashes TensorRT-LLM: ask without streaming")


def encode_request(request: EngineRequest) -> dict[str, Array]:
    """The tensors of a request; those at their default are left out. ContractError for one that is a trap."""
    _require_sound(request)
    tensors = {"input_lengths": _scalar("input_lengths", len(request.input_ids))}
    tensors["request_output_len"] = _scalar("request_output_len", request.max_new_tokens)
    if request.stop:
        return tensors | {"stop": _scalar("stop", True)}
    tensors["input_ids"] = _ids(request.input_ids)
    if request.draft_ids:
        tensors["draft_input_ids"] = _ids(request.draft_ids)
    if request.stop_words:
        tensors["stop_words_list"] = encode_stop_words(request.stop_words)
    if request.embedding_bias is not None:
        tensors["embedding_bias"] = request.embedding_bias.astype(np.float32, copy=False).reshape(1, -1)
    optional: dict[str, Any] = {
        "end_id": request.end_id,
        "pad_id": request.pad_id,
        "runtime_top_k": request.top_k,
        "runtime_top_p": request.top_p if request.top_p > 0 else None,
        "temperature": request.temperature if request.top_k != 1 else None,
        "seed": request.seed or None,
        "streaming": request.streaming or None,
        "exclude_input_in_output": request.exclude_input,
        "return_log_probs": request.return_log_probs or None,
        "return_perf_metrics": request.return_perf_metrics or None,
        "lora_task_id": request.lora_task_id,
    }
    tensors |= {name: _scalar(name, value) for name, value in optional.items() if value is not None}
    adapter = {"lora_weights": request.lora_weights, "lora_config": request.lora_config}
    return tensors | {name: array[np.newaxis] for name, array in adapter.items() if array is not None}


def _checked(tensors: Mapping[str, Array]) -> None:
    for name, array in tensors.items():
        spec = _INPUT_BY_NAME.get(name)
        if spec is None:
            raise ContractError(f"{name}: not an input of this model")
        if array.dtype != DTYPES[spec.datatype]:
            raise ContractError(f"{name}: type {array.dtype}, expected {spec.datatype}")
        if array.shape[:1] != (1,):
            raise ContractError(f"{name}: shape {list(array.shape)}, expected one request to a batch, [1, …]")
        if spec.scalar and array.size != 1:
            raise ContractError(f"{name}: shape {list(array.shape)}, expected one value, [1, 1]")
    for spec in INPUTS:
        if not spec.optional and spec.name not in tensors:
            raise ContractError(f"{spec.name}: required")


def _read_ids(name: str, tensors: Mapping[str, Array]) -> tuple[int, ...]:
    array = tensors.get(name)
    return () if array is None else tuple(array.reshape(-1).tolist())


def _matrices(name: str, tensors: Mapping[str, Array]) -> Array | None:
    array = tensors.get(name)
    if array is not None and array.ndim != 3:
        raise ContractError(f"{name}: shape {list(array.shape)}, expected [1, matrices, values]")
    return None if array is None else array[0]


def _whole_number(name: str, value: object) -> int:
    """A Triton parameter may arrive as a number or as its text."""
    try:
        return int(str(value))
    except ValueError:
        raise ContractError(f"{name}: expected a whole number") from None


def _work_class(value: object) -> WorkClass:
    try:
        return WorkClass(str(value))
    except ValueError:
        raise ContractError(f"{PARAM_CLASS}: expected one of {', '.join(WorkClass)}") from None


def _weight(value: object) -> int:
    weight = _whole_number(PARAM_WEIGHT, value)
    if weight < 1:
        raise ContractError(f"{PARAM_WEIGHT}: {weight}, expected at least 1")
    return weight


def decode_request(tensors: Mapping[str, Array], parameters: Mapping[str, object]) -> EngineRequest:
    """The request that the tensors and Triton request parameters stand for; ContractError names the first offender."""
    _checked(tensors)

    def scalar(name: str, default: Any) -> Any:
        array = tensors.get(name)
        return default if array is None else array.reshape(-1)[0].item()

    if scalar("stop", False):
        return EngineRequest(stop=True)
    input_ids = _read_ids("input_ids", tensors)
    if scalar("input_lengths", 0) != len(input_ids):
        raise ContractError(f"input_lengths: {scalar('input_lengths', 0)}, but input_ids has {len(input_ids)} tokens")
    deadline = parameters.get(PARAM_DEADLINE_MS)
    bias = tensors.get("embedding_bias")
    stop_words = tensors.get("stop_words_list")
    return EngineRequest(
        input_ids=input_ids,
        max_new_tokens=scalar("request_output_len", 1),
        draft_ids=_read_ids("draft_input_ids", tensors),
        end_id=scalar("end_id", None),
        pad_id=scalar("pad_id", None),
        stop_words=() if stop_words is None else decode_stop_words(stop_words),
        embedding_bias=None if bias is None else bias.reshape(-1),
        top_k=scalar("runtime_top_k", 1),
        top_p=scalar("runtime_top_p", 0.0),
        temperature=scalar("temperature", 1.0),
        seed=scalar("seed", 0),
        streaming=scalar("streaming", False),
        exclude_input=scalar("exclude_input_in_output", False),
        return_log_probs=scalar("return_log_probs", False),
        return_perf_metrics=scalar("return_perf_metrics", False),
        lora_task_id=scalar("lora_task_id", None),
        lora_weights=_matrices("lora_weights", tensors),
        lora_config=_matrices("lora_config", tensors),
        deadline_ms=None if deadline is None else _whole_number(PARAM_DEADLINE_MS, deadline),
        namespace=str(parameters.get(PARAM_NAMESPACE, "")),
        work_class=_work_class(parameters.get(PARAM_CLASS, WorkClass.AUTOMATIC)),
        weight=_weight(parameters.get(PARAM_WEIGHT, 1)),
    )


_PERF_FIELDS = {
    "kv_cache_alloc_new_blocks": "new_blocks",
    "kv_cache_reused_blocks": "reused_blocks",
    "kv_cache_alloc_total_blocks": "total_blocks",
    "arrival_time_ns": "arrival_ns",
    "first_scheduled_time_ns": "first_scheduled_ns",
    "first_token_time_ns": "first_token_ns",
    "last_token_time_ns": "last_token_ns",
    "acceptance_rate": "acceptance_rate",
    "total_accepted_draft_tokens": "accepted_drafts",
    "total_draft_tokens": "drafts",
}


def encode_response(response: EngineResponse) -> dict[str, Array]:
    """The output tensors of a response."""
    tensors: dict[str, Array] = {
        "output_ids": np.array([[response.output_ids]], dtype=np.int32).reshape(1, 1, -1),
        "sequence_length": np.array([[len(response.output_ids)]], dtype=np.int32),
    }
    if response.log_probs is not None:
        tensors["cum_log_probs"] = np.array([[sum(response.log_probs)]], dtype=np.float32)
        tensors["output_log_probs"] = np.array([[response.log_probs]], dtype=np.float32).reshape(1, 1, -1)
    if response.perf is not None:
        for name, attribute in _PERF_FIELDS.items():
            tensors[name] = np.array([[getattr(response.perf, attribute)]], dtype=DTYPES[_OUTPUT_BY_NAME[name].datatype])
    return tensors


def decode_response(tensors: Mapping[str, Array]) -> EngineResponse:
    """The response that output tensors stand for; ContractError when a promised one is missing."""
    for name in ("output_ids", "sequence_length"):
        if name not in tensors:
            raise ContractError(f"{name}: missing in the response")
    length = int(tensors["sequence_length"].reshape(-1)[0])
    log_probs = tensors.get("output_log_probs", np.zeros(0))
    perf = None
    if "kv_cache_reused_blocks" in tensors:
        values = {attribute: tensors[name].reshape(-1)[0].item() for name, attribute in _PERF_FIELDS.items() if name in tensors}
        perf = Perf(**values)
    return EngineResponse(
        output_ids=tuple(tensors["output_ids"].reshape(-1)[:length].tolist()),
        # All zero is none: TensorRT-LLM's layer for external drafts computes none (docs/gpu.md), and zero would be certainty.
        log_probs=tuple(log_probs.reshape(-1)[:length].tolist()) if log_probs.any() else None,
        perf=perf,
    )
