"""The adapters that the CPU engine has: checked, known by their id, and forgotten when there is no room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine.contract import NOT_CACHED, ContractError, EngineRequest
from keyahead.engine.cpu.lora import Adapters, names, no_adapter

SITES = {(1, 0): (4, 6), (2, 0): (4, 2), (1, 1): (4, 6)}
RANK = 2
BYTES = 4 * RANK * (4 + 6)
"""Of an adapter of the first matrix, in FP32."""


def sent(task_id: int | None, *, seed: int = 0, module: int = 1, layer: int = 0, rank: int = RANK, width: int = 20) -> EngineRequest:
    weights = np.random.default_rng(seed).standard_normal((1, width)).astype(np.float16)
    return EngineRequest(lora_task_id=task_id, lora_weights=weights, lora_config=np.array([[module, layer, rank]], dtype=np.int32))


def known(task_id: int) -> EngineRequest:
    return EngineRequest(lora_task_id=task_id)


def adapters(capacity: int = 10 * BYTES) -> Adapters:
    return Adapters(SITES, 4, capacity)


def test_the_two_matrices_are_taken_out_of_a_row() -> None:
    """A [rank, in], then B [out, rank], then padding; matrices that are not sent have rank 0."""
    row = np.arange(30, dtype=np.float16)
    request = EngineRequest(lora_task_id=7, lora_weights=row[np.newaxis], lora_config=np.array([[1, 0, RANK]], dtype=np.int32))
    loaded = adapters().of(request)
    assert loaded is not None
    a, b = (loaded.inputs[name] for name in names((1, 0)))
    assert np.array_equal(a, np.arange(8, dtype=np.float32).reshape(RANK, 4))
    assert np.array_equal(b, np.arange(8, 20, dtype=np.float32).reshape(6, RANK))
    assert [loaded.inputs[name].shape for name in names((2, 0))] == [(0, 4), (2, 0)]
    assert loaded.num_bytes == BYTES
    assert {array.size for array in no_adapter(SITES).inputs.values()} == {0}


def test_weights_are_sent_once() -> None:
    """After the first request the id is enough, and weights that come again change nothing."""
    cache = adapters()
    loaded = cache.of(sent(7))
    assert loaded is cache.of(known(7)) is cache.of(sent(7))


def test_an_unknown_id_is_told_in_tensorrt_llms_words() -> None:
    """So that a service need not know which engine answers."""
    with pytest.raises(ContractError, match=f"^lora_task_id: LoRA task 7 {NOT_CACHED}$"):
        adapters().of(known(7))


def test_an_id_means_one_adapter() -> None:
    """Other weights under a known id would be answered from the first one's KV."""
    cache = adapters()
    cache.of(sent(7))
    with pytest.raises(ContractError, match="other weights already"):
        cache.of(sent(7, seed=1))


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (sent(None), "lora_task_id: required"),
        (sent(7, module=9), "module 9 of layer 0"),
        (sent(7, layer=3), "module 1 of layer 3"),
        (sent(7, rank=0), "rank 0, expected 1 to 4"),
        (sent(7, rank=5, width=60), "rank 5, expected 1 to 4"),
        (sent(7, width=19), "19 values in a row, expected at least 20"),
        (EngineRequest(lora_task_id=7, lora_weights=np.zeros((2, 20), np.float16), lora_config=np.ones((1, 3), np.int32)), "for each of 2"),
        (EngineRequest(lora_task_id=7, lora_weights=np.zeros((2, 20), np.float16), lora_config=np.array([[1, 0, 2]] * 2)), "comes twice"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(request_: EngineRequest, complaint: str) -> None:
    """By the tensor's name, with what was expected; and it is not known afterwards."""
    cache = adapters()
    with pytest.raises(ContractError, match=complaint):
        cache.of(request_)
    with pytest.raises(ContractError, match=NOT_CACHED):
        cache.of(known(7))


def test_an_engine_without_adapters_says_how_to_have_them() -> None:
    """Rather than that the weights are missing, which would be sent in vain."""
    with pytest.raises(ContractError, match="max_lora_rank"):
        Adapters({}, 0, 1000).of(sent(7))


def test_the_one_used_longest_ago_is_forgotten() -> None:
    """With room for two; it is known again when its weights come again."""
    cache = adapters(2 * BYTES)
    for task_id in (1, 2):
        cache.of(sent(task_id, seed=task_id))
    cache.of(known(1))
    cache.of(sent(3, seed=3))
    cache.of(known(1))
    with pytest.raises(ContractError, match=NOT_CACHED):
        cache.of(known(2))
    assert cache.of(sent(2, seed=2)) is cache.of(known(2))


def test_one_that_can_never_fit_is_refused() -> None:
    """Nothing is forgotten for it."""
    cache = adapters(BYTES)
    cache.of(sent(1))
    cache._capacity = BYTES - 1
    with pytest.raises(ContractError, match=f"{BYTES} bytes, expected at most {BYTES - 1}"):
        cache.of(sent(2, seed=2))
    assert cache.of(known(1)) is not None


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=40))
def test_memory_is_bounded_whatever_comes(turns: list[tuple[int, bool]]) -> None:
    """What is known never exceeds the capacity, and an adapter that is given is always the one asked for."""
    cache = adapters(3 * BYTES)
    digests: dict[int, str] = {}
    for task_id, with_weights in turns:
        request: Any = sent(task_id, seed=task_id) if with_weights else known(task_id)
        try:
            loaded = cache.of(request)
        except ContractError:
            continue
        assert loaded is not None
        assert digests.setdefault(task_id, loaded.digest) == loaded.digest
        assert cache._held() <= 3 * BYTES
