"""The engine's requests and responses as Triton's messages on the stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keyahead.engine.adapters import Adapter
from keyahead.engine.contract import (
    DTYPES,
    INPUTS,
    MODEL_NAME,
    PARAM_CLASS,
    PARAM_DEADLINE_MS,
    PARAM_NAMESPACE,
    PARAM_WEIGHT,
    PERF_OUTPUTS,
    Array,
    EngineRequest,
    encode_request,
)
from keyahead.proto.inference import triton_pb2

_DATATYPES = {tensor.name: tensor.datatype for tensor in INPUTS}
_OUTPUTS = ("output_ids", "sequence_length")
_PERF_OUTPUTS = tuple(tensor.name for tensor in PERF_OUTPUTS)
_RAW_CONTENTS = bytes([triton_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
"""What stands before each tensor's bytes on the wire, and behind it their number (protobuf.dev/programming-guides/encoding)."""


def to_message(request_id: str, request: EngineRequest) -> triton_pb2.ModelInferRequest:
    """The message that carries a request."""
    message = triton_pb2.ModelInferRequest(model_name=MODEL_NAME, id=request_id)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    if request.deadline_ms is not None:
        message.parameters[PARAM_DEADLINE_MS].int64_param = request.deadline_ms
    if request.namespace:
        message.parameters[PARAM_NAMESPACE].string_param = request.namespace
    if not request.stop:
        message.parameters[PARAM_CLASS].string_param = request.work_class
        message.parameters[PARAM_WEIGHT].int64_param = request.weight
    for name, array in encode_request(request).items():
        message.inputs.add(name=name, datatype=_DATATYPES[name], shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    for name in _outputs(request):
        message.outputs.add(name=name)
    return message


def with_adapter(message: triton_pb2.ModelInferRequest, adapter: Adapter) -> list[bytes]:
    """The message with an adapter's weights, as parts to be joined.

    Protobuf itself would copy the weights three times and let no other thread run meanwhile; joining copies them once and does.
    """
    for name, shape in (("lora_weights", adapter.weights.shape), ("lora_config", adapter.config.shape)):
        message.inputs.add(name=name, datatype=_DATATYPES[name], shape=(1, *shape))
    parts = [message.SerializeToString()]
    for data in (adapter.packed, adapter.config.tobytes()):
        parts += [_RAW_CONTENTS, _varint(len(data)), data]
    return parts


def to_arrays(response: triton_pb2.ModelInferResponse) -> Mapping[str, Array]:
    """The tensors of a response."""
    return {
        output.name: np.frombuffer(raw, dtype=DTYPES[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        if output.datatype in DTYPES
    }


def _outputs(request: EngineRequest) -> tuple[str, ...]:
    """Only what is wanted is asked for: a tensor more is a tensor more in every response."""
    log_probs = ("output_log_probs",) if request.return_log_probs else ()
    return (*_OUTPUTS, *log_probs, *(_PERF_OUTPUTS if request.return_perf_metrics else ()))


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
