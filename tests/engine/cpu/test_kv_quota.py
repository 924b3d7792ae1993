"""What the engine keeps in Redis is bounded, in blocks and in bytes per second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine.cpu.kv_quota import Allowance, Key, Ledger


def key(number: int) -> Key:
    return b"parent", (number,)


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_least_recently_used_goes() -> None:
    """Over the capacity, the name of the block that was longest not asked for is given back for deletion."""
    ledger = Ledger(2, 60, Clock())
    assert ledger.add(key(1), "one") == []
    assert ledger.add(key(2), "two") == []
    assert ledger.has(key(1))
    assert ledger.add(key(3), "three") == ["two"]
    assert [ledger.has(key(number)) for number in (1, 2, 3)] == [True, False, True]


def test_what_has_expired_or_is_missing_is_not_there() -> None:
    """After its time, or when somebody has found it gone, a block is to be written again."""
    clock = Clock()
    ledger = Ledger(9, 60, clock)
    ledger.add(key(1), "one")
    ledger.add(key(2), "two")
    ledger.discard(key(2))
    assert [ledger.has(key(1)), ledger.has(key(2))] == [True, False]
    clock.now = 60.0
    assert not ledger.has(key(1))


@given(st.lists(st.integers(0, 20)), st.integers(1, 5))
def test_what_is_listed_and_what_is_given_up_are_all_there_ever_was(added: list[int], capacity: int) -> None:
    """No name is forgotten without being given up, and the list stays within its capacity."""
    ledger = Ledger(capacity, 60, Clock())
    there: set[str] = set()
    for number in added:
        there.add(str(number))
        there -= set(ledger.add(key(number), str(number)))
        assert there == {str(each) for each in range(21) if ledger.has(key(each))}
        assert len(ledger) <= capacity


def test_a_burst_is_free_and_the_rest_waits_for_its_rate() -> None:
    """100 bytes at once, then 10 a second; time that passes counts for what comes later, up to the burst."""
    clock = Clock()
    allowance = Allowance(10, 100, clock)
    assert allowance.spend(100) == 0
    assert allowance.spend(20) == pytest.approx(2)
    clock.now = 2.0
    assert allowance.spend(10) == pytest.approx(1)
    clock.now = 1000.0
    assert allowance.spend(100) == 0
    assert allowance.spend(10) == pytest.approx(1)
