"""Requests as Triton's messages: what they mean, and that bytes put together by hand are those of protobuf."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine.adapters import Adapter
from keyahead.engine.contract import EngineRequest, WorkClass, decode_request, encode_request
from keyahead.proto.inference import triton_pb2
from keyahead.service.engine_wire import to_message, with_adapter


def test_who_waits_and_for_whom_travels_as_parameters() -> None:
    """Deadline, namespace, class and weight arrive as the contract reads them."""
    sent = EngineRequest(input_ids=(1,), deadline_ms=70, namespace="a", work_class=WorkClass.WARMING, weight=3)
    message = to_message("d1", sent)
    parameters = {name: getattr(value, value.WhichOneof("parameter_choice") or "") for name, value in message.parameters.items()}
    assert decode_request(encode_request(sent), parameters) == sent


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_message_with_an_adapter_is_that_of_protobuf(matrices: int, values: int) -> None:
    """Whatever the weights' size, so whatever the length of the number before them."""
    weights = np.resize(np.arange(1000, dtype=np.float16), (matrices, values))
    config = np.ones((matrices, 3), np.int32)
    request = EngineRequest(input_ids=(1, 2), namespace="acme", lora_task_id=7)
    adapter = Adapter("ab" * 32, 1, frozenset({"q_proj"}), weights.tobytes(), config)
    joined = b"".join(with_adapter(to_message("d1", request), adapter))
    whole = to_message("d1", dataclasses.replace(request, lora_weights=weights, lora_config=config))
    assert triton_pb2.ModelInferRequest.FromString(joined) == whole
