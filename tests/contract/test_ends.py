"""How a request ends early: stopped, abandoned, or refused; the engine serves on."""

from __future__ import annotations

import numpy as np
import pytest

from keyahead.engine.contract import Array, EngineRequest, encode_request
from tests.contract.client import Endpoint, declared_type, good_tensors

LONG = 400
"""Tokens that nobody waits for."""


@pytest.fixture(autouse=True)
def _serves_on(endpoint: Endpoint, prompt: tuple[int, ...], expected: tuple[int, ...]) -> object:
    """After each test here the engine still answers rightly."""
    yield
    assert endpoint.ask(prompt, max_new_tokens=9).tokens == expected


def test_a_stop_ends_the_request_of_its_id(endpoint: Endpoint, prompt: tuple[int, ...]) -> None:
    """Sent while the answer streams, it ends that long before its length; an error then says that it was cancelled."""
    stream = endpoint.start(prompt, max_new_tokens=LONG, streaming=True)
    next(stream.responses())
    stream.send(encode_request(EngineRequest(stop=True)))
    answer = stream.finish()
    assert len(answer.tokens) < LONG
    assert not answer.error or "CANCEL" in answer.error.upper()


def test_a_stop_of_nothing_is_answered(endpoint: Endpoint) -> None:
    """With an empty final response; the service's heartbeat rests on it."""
    stream = endpoint.open()
    stream.send(encode_request(EngineRequest(stop=True)))
    answer = stream.finish()
    assert (answer.error, answer.tokens) == ("", ())


def test_a_client_may_hang_up(endpoint: Endpoint, prompt: tuple[int, ...]) -> None:
    """In the middle of an answer, without a word."""
    stream = endpoint.start(prompt, max_new_tokens=LONG, streaming=True)
    next(stream.responses())
    stream.hang_up()


WRONG: dict[str, Array | None] = {
    "input_ids": np.array([[1, 2, 3]], dtype=np.int64),
    "streaming": np.array([[1]], dtype=np.int32),
    "request_output_len": np.array([[1, 2]], dtype=np.int32),
    "input_lengths": None,
    "no_such_tensor": np.array([[1]], dtype=np.int32),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_tensor_is_named(endpoint: Endpoint, prompt: tuple[int, ...], name: str) -> None:
    """Of another type or shape, missing, or unknown: the error names it."""
    tensors, wrong = good_tensors(prompt), WRONG[name]
    if wrong is None:
        del tensors[name]
    else:
        tensors[name] = wrong
    stream = endpoint.open()
    stream.send(tensors)
    answer = stream.finish()
    assert name in answer.error
    assert not answer.tokens


def test_bytes_that_do_not_fit_their_shape_are_refused(endpoint: Endpoint, prompt: tuple[int, ...]) -> None:
    """The right type and shape are declared, but the bytes are those of 64-bit ids."""
    tensors = good_tensors(prompt) | {"input_ids": np.array([prompt], dtype=np.int64)}
    stream = endpoint.open()
    stream.send(tensors, datatypes={"input_ids": declared_type("input_ids")})
    assert "input_ids" in stream.finish().error
