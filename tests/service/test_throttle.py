"""No session takes the event loop from the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service import throttle
from keyahead.service.requests import Limits
from keyahead.service.session_stream import SessionStream
from keyahead.service.throttle import BURST_S, LOOP_PART, MESSAGE_S, Throttle
from tests.service.test_session_stream import NoService


@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=300))
def test_a_flood_gets_its_part_and_no_more(took: list[float]) -> None:
    """Whatever its messages cost: of any time that it takes, at most a tenth is work, and there is a message in ten milliseconds."""
    stream, now, last = Throttle(), 100.0, 0.0
    for each in took:
        last = stream.wait_s(now + each, each)
        now += each + last
    passed = now - last - 100.0
    assert LOOP_PART * sum(took[:-1]) <= passed + BURST_S + 1e-6
    assert MESSAGE_S * (len(took) - 1) <= passed + BURST_S + 1e-6


def test_a_typist_never_waits() -> None:
    """Not with a key in every 15 ms, nor with a hundred messages at once after a pause."""
    stream = Throttle()
    assert not any(stream.wait_s(100 + n * 0.015, 0.001) for n in range(1000))
    assert not any(stream.wait_s(200.0, 0.0) for _ in range(100))
    assert stream.wait_s(200.0, 0.0) == pytest.approx(MESSAGE_S)


@pytest.mark.asyncio
async def test_a_stream_that_sends_too_much_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has sent stays with the transport, whose own window then stops the client."""
    monkeypatch.setattr(throttle, "MESSAGE_S", 3600)
    monkeypatch.setattr(throttle, "BURST_S", 7200)
    num_read = 0

    async def requests() -> AsyncIterator[pb.SessionRequest]:
        nonlocal num_read
        while True:
            num_read += 1
            yield pb.SessionRequest(close=pb.Close(document_id="d"))
            await asyncio.sleep(0)

    async def write(_: pb.SessionResponse) -> None:
        raise AssertionError

    stream = asyncio.create_task(SessionStream(NoService(), "acme", Limits(), pb.ModelInfo()).run(requests(), write))
    for _ in range(1000):
        await asyncio.sleep(0)
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
    assert num_read == 3
