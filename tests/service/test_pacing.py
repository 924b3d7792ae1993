"""The suggested wait: none while answers keep up, and never more than a pause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.pacing import NUM_ANSWERS, NUM_KEYS, PAUSE_S, USUAL_INTERVAL_S, Pacer

SECONDS = st.floats(0, 2)


def typing(interval: float, latency: float, keys: int = NUM_KEYS) -> Pacer:
    """A typist whose every key needs the engine."""
    pacer = Pacer()
    for index in range(keys):
        pacer.key(index * interval)
        pacer.answered(latency)
    return pacer


def test_a_new_session_waits_for_nothing() -> None:
    """Neither before the first key nor before the first answer."""
    pacer = Pacer()
    assert pacer.hint_ms == 0
    pacer.key(0)
    assert pacer.hint_ms == 0


@given(interval=st.floats(0.05, PAUSE_S), share=st.floats(0, 1))
def test_while_answers_come_before_the_next_key_there_is_no_wait(interval: float, share: float) -> None:
    """However fast the typist is."""
    assert typing(interval, interval * share).hint_ms == 0


@pytest.mark.parametrize("interval", [0.1, 0.15, 0.2])
def test_when_answers_take_two_keys_only_a_pause_is_asked_for(interval: float) -> None:
    """The wait is then the typist's own interval."""
    assert typing(interval, 2 * interval).hint_ms == pytest.approx(interval * 1000, abs=10)


@given(interval=st.floats(0.05, PAUSE_S), latency=SECONDS, more=SECONDS)
def test_later_answers_never_shorten_the_wait(interval: float, latency: float, more: float) -> None:
    """It grows with latency, up to a pause."""
    slow, slower = typing(interval, latency).hint_ms, typing(interval, latency + more).hint_ms
    assert 0 <= slow <= slower <= PAUSE_S * 1000
    assert slow % 10 == 0


@given(free=st.integers(0, NUM_KEYS))
def test_keys_answered_without_the_engine_shorten_the_wait(free: int) -> None:
    """In proportion, down to nothing when all of them are."""
    pacer = typing(0.2, 0.6)
    for _ in range(free):
        pacer.free()
    assert pacer.hint_ms == pytest.approx(400 * (NUM_KEYS - free) / NUM_KEYS, abs=5)


def test_a_late_answer_counts_twice() -> None:
    """Cut off at 160 ms, an answer would have come later than that: with 320 ms the usual typist has had the next key."""
    pacer = Pacer()
    pacer.answered(0.16)
    assert pacer.hint_ms == 0
    pacer = Pacer()
    pacer.late(0.16)
    assert pacer.hint_ms == pytest.approx((0.32 - USUAL_INTERVAL_S) * 1000, abs=5)


def test_pauses_are_no_rhythm() -> None:
    """Long thoughts between bursts do not make a fast typist a slow one."""
    pacer, now = Pacer(), 0.0
    for index in range(40):
        now += 5.0 if index % 8 == 0 else 0.1
        pacer.key(now)
        pacer.answered(0.2)
    assert pacer.hint_ms == pytest.approx(100, abs=10)


def test_old_answers_are_forgotten() -> None:
    """A server that is quick again is asked at once again."""
    pacer = typing(0.1, 2.0)
    for _ in range(NUM_ANSWERS):
        pacer.answered(0.05)
    assert pacer.hint_ms == 0
