"""Garbage is collected behind the answers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from keyahead.service.garbage import DUE, settle
from keyahead.service.interceptors import RECORD_AFTER_S, Call, Observed
from keyahead.service.metrics import Metrics


class Ring:
    """Garbage that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def settled() -> Iterator[None]:
    """As in a service that is ready."""
    before = gc.get_threshold()
    settle()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.usefixtures("settled")
async def test_garbage_of_a_call_is_collected_behind_its_answer() -> None:
    """Not inside it, however much it makes; then at once, and not at the time of some later call."""
    with Observed(Metrics(), Call("Call")):
        gone = [weakref.ref(Ring()) for _ in range(2 * DUE[0])]
        assert all(ring() for ring in gone)
    await asyncio.sleep(2 * RECORD_AFTER_S)
    assert not any(ring() for ring in gone)
