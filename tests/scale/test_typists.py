"""What is said of calls around a death: who lost one without reason, and when p99 was back."""

from __future__ import annotations

import math

import grpc

from tests.scale.typists import Call, at_service, back_after, strays

OK, GONE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


def test_only_what_was_in_flight_at_the_victim_may_be_lost() -> None:
    """A call sent later, or to another, is a stray; one that Envoy says nothing of was where its session is at home."""
    before = [Call("s", 0, 1, OK, "a:1"), Call("t", 0, 1, OK, "b:1")]
    was_there = at_service({"s": "a:1", "t": "b:1"}, "a:1")
    excused = [
        Call("s", 9, 10.5, GONE, "a:1"),
        Call("s", 9, 10.5, GONE, ""),
        Call("s", 8, 9, GONE, "b:1"),
        Call("s", 10.1, 10.5, GONE, "a:1"),
    ]
    wrong = [Call("s", 10.3, 10.5, GONE, "a:1"), Call("t", 9, 10.5, GONE, "b:1"), Call("t", 9, 10.5, GONE, "")]
    harmless = [
        Call("t", 9, 10.5, grpc.StatusCode.ABORTED, "b:1"),
        Call("t", 9, 10.5, grpc.StatusCode.RESOURCE_EXHAUSTED, "b:1"),
        Call("t", 9, 11, OK, "b:1"),
    ]
    assert strays([*before, *excused, *wrong, *harmless], 10, was_there) == wrong


def test_p99_is_back_when_a_whole_window_is_within_the_limit() -> None:
    """Calls are slow for 3 s after the death at 100; then a window that begins there is quick, and nothing is back if they stay slow."""
    calls = [Call("s", 100 + turn / 10, 100 + turn / 10 + (0.9 if turn < 30 else 0.1), OK, "a:1") for turn in range(100)]
    assert math.isclose(back_after(calls, 100, 110, 0.2), 3.0)
    assert back_after(calls, 100, 110, 0.05) == math.inf
