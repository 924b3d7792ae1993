"""The engine contract: what is encoded is what is decoded, and errors name the tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine.contract import (
    DTYPES,
    INPUTS,
    MAX_DRAFTS,
    OUTPUTS,
    PARAM_CLASS,
    PARAM_DEADLINE_MS,
    PARAM_WEIGHT,
    Array,
    ContractError,
    EngineRequest,
    EngineResponse,
    Perf,
    WorkClass,
    decode_request,
    decode_response,
    decode_stop_words,
    encode_request,
    encode_response,
    encode_stop_words,
)

ids = st.lists(st.integers(0, 151_935), min_size=1, max_size=20).map(tuple)
words = st.lists(ids, max_size=6).map(tuple)


def _is_sound(request: EngineRequest) -> bool:
    return not request.streaming or not (request.draft_ids or request.return_log_probs)


requests = st.builds(
    EngineRequest,
    input_ids=ids,
    max_new_tokens=st.integers(1, 200),
    draft_ids=st.one_of(st.just(()), ids),
    end_id=st.one_of(st.none(), st.integers(0, 151_935)),
    pad_id=st.one_of(st.none(), st.integers(0, 151_935)),
    stop_words=words,
    top_k=st.just(1),
    streaming=st.booleans(),
    exclude_input=st.booleans(),
    return_log_probs=st.booleans(),
    return_perf_metrics=st.booleans(),
).filter(_is_sound)


@given(requests)
def test_a_request_survives_the_wire(request: EngineRequest) -> None:
    """Decoding the encoded tensors gives the same request."""
    assert decode_request(encode_request(request), {}) == request


@given(requests)
def test_encoded_tensors_have_the_declared_types_and_ranks(request: EngineRequest) -> None:
    """Every tensor is one that config.pbtxt declares, of its type, with a batch dimension in front."""
    declared = {tensor.name: tensor for tensor in INPUTS}
    for name, array in encode_request(request).items():
        assert array.dtype == DTYPES[declared[name].datatype]
        assert array.ndim == 1 + len(declared[name].dims)
        assert array.shape[0] == 1


@given(words)
def test_stop_words_survive_their_coding(value: tuple[tuple[int, ...], ...]) -> None:
    """TensorRT-LLM's two rows, ids and end offsets, give the words back."""
    assert decode_stop_words(encode_stop_words(value)) == value


@given(st.builds(EngineResponse, ids, st.none(), st.one_of(st.none(), st.builds(Perf, drafts=st.integers(0, 24)))))
def test_a_response_survives_the_wire(response: EngineResponse) -> None:
    """Tokens and statistics come back as they were sent, in declared tensors."""
    tensors = encode_response(response)
    declared = {tensor.name: tensor for tensor in OUTPUTS}
    assert all(array.dtype == DTYPES[declared[name].datatype] for name, array in tensors.items())
    assert decode_response(tensors) == response


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"streaming": True, "draft_ids": (5,)}, "draft_input_ids: .*without streaming"),
        ({"streaming": True, "return_log_probs": True}, "return_log_probs: .*crashes"),
        ({"draft_ids": (5,) * (MAX_DRAFTS + 1)}, f"draft_input_ids: {MAX_DRAFTS + 1} drafts, .* {MAX_DRAFTS}"),
        ({"max_new_tokens": 0}, "request_output_len: 0"),
    ],
)
def test_a_trap_of_tensorrt_llm_is_not_sent(fields: dict[str, Any], reason: str) -> None:
    """Refused with the reason before an engine can crash on it, drop it or answer with something else."""
    with pytest.raises(ContractError, match=rf"^{reason}"):
        encode_request(EngineRequest((1, 2), **fields))


@pytest.mark.parametrize(("log_probs", "known"), [((-0.5, 0.0), (-0.5, 0.0)), ((0.0, 0.0), None), (None, None)])
def test_zeros_are_no_log_probabilities(log_probs: tuple[float, ...] | None, known: tuple[float, ...] | None) -> None:
    """Of an engine that computes none; a certain token beside another keeps its zero."""
    assert decode_response(encode_response(EngineResponse((1, 2), log_probs))).log_probs == known


@pytest.mark.parametrize("fields", [{"draft_ids": (5,) * MAX_DRAFTS}, {"return_log_probs": True}, {"streaming": True}])
def test_each_by_itself_is_sent(fields: dict[str, Any]) -> None:
    """As many drafts as an engine takes, log-probabilities, a stream."""
    assert encode_request(EngineRequest((1, 2), **fields))


def changed(name: str, array: Array) -> dict[str, Array]:
    """A good request with one tensor replaced."""
    return {**encode_request(EngineRequest(input_ids=(1, 2, 3))), name: array}


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("input_ids", np.array([[1, 2, 3]], dtype=np.int64)),
        ("input_ids", np.array([[1, 2], [3, 4]], dtype=np.int32)),
        ("input_lengths", np.array([[7]], dtype=np.int32)),
        ("request_output_len", np.array([[7, 8]], dtype=np.int32)),
        ("streaming", np.array([[1]], dtype=np.int32)),
        ("stop_words_list", np.array([[[1, 2], [2, 1]]], dtype=np.int32)),
        ("stop_words_list", np.array([[[1, 2], [3, -1]]], dtype=np.int32)),
        ("stop_words_list", np.array([[1, 2]], dtype=np.int32)),
        ("no_such_tensor", np.array([[1]], dtype=np.int32)),
    ],
)
def test_a_broken_tensor_is_named(name: str, array: Array) -> None:
    """The error begins with the name of the tensor that is wrong."""
    with pytest.raises(ContractError, match=rf"^{name}: "):
        decode_request(changed(name, array), {})


def test_a_missing_tensor_is_named() -> None:
    """What the contract requires must be there."""
    with pytest.raises(ContractError, match=r"^input_lengths: required"):
        decode_request({}, {})
    with pytest.raises(ContractError, match=r"^output_ids: missing"):
        decode_response({})


def test_parameters_are_read_and_checked() -> None:
    """Numbers may come as text, but must be some; class and weight are those that exist."""
    tensors = encode_request(EngineRequest(input_ids=(1,)))
    assert decode_request(tensors, {PARAM_DEADLINE_MS: "250"}).deadline_ms == 250
    with pytest.raises(ContractError, match=r"^deadline_ms: "):
        decode_request(tensors, {PARAM_DEADLINE_MS: "soon"})
    decoded = decode_request(tensors, {PARAM_CLASS: "background", PARAM_WEIGHT: 3})
    assert (decoded.work_class, decoded.weight) == (WorkClass.BACKGROUND, 3)
    for name, wrong in ((PARAM_CLASS, "urgent"), (PARAM_WEIGHT, 0)):
        with pytest.raises(ContractError, match=rf"^{name}: "):
            decode_request(tensors, {name: wrong})


def test_a_stop_needs_nothing_but_the_required_tensors() -> None:
    """A stop request is recognised whatever else is missing."""
    assert decode_request(encode_request(EngineRequest(stop=True)), {}).stop
