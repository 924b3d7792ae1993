"""Which engine serves whom: each session one, whoever asks; and it moves only if it must."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.engines import Change, Roster, key_of
from keyahead.service.model import Query

ADDRESSES = st.frozensets(st.integers(1, 99).map(lambda number: f"10.0.0.{number}:8801"), min_size=1, max_size=8)
KEYS = st.text(max_size=20)


def roster(addresses: frozenset[str]) -> Roster:
    """One whose only name stands for these."""
    made = Roster(["engines:8801"])
    made.resolved("engines:8801", addresses)
    return made


@given(ADDRESSES, KEYS)
def test_every_process_finds_the_same_order(addresses: frozenset[str], key: str) -> None:
    """However the addresses were told: by one name, or each by its own."""
    named = Roster(sorted(addresses))
    for each in sorted(addresses, reverse=True):
        named.resolved(each, [each])
    assert named.ranked(key) == roster(addresses).ranked(key)
    assert set(named.ranked(key)) == addresses


@given(ADDRESSES, st.lists(KEYS, max_size=30), st.data())
def test_who_goes_moves_its_own_sessions_only(addresses: frozenset[str], keys: list[str], data: st.DataObject) -> None:
    """The order of the others stays: so a session falls to its second, and returns when its first does."""
    gone = data.draw(st.sampled_from(sorted(addresses)))
    for key in keys:
        assert roster(addresses - {gone}).ranked(key) == [each for each in roster(addresses).ranked(key) if each != gone]


def test_sessions_are_spread_evenly() -> None:
    """Of 3000 over three each has a third, within five standard deviations."""
    three = roster(frozenset(f"10.0.0.{number}:8801" for number in range(3)))
    counts = Counter(three.ranked(f"t\0session-{number}")[0] for number in range(3000))
    assert all(abs(count - 1000) < 5 * (3000 * 2 / 9) ** 0.5 for count in counts.values())


def test_a_change_tells_who_has_joined_and_left() -> None:
    """An address that another name gives, too, neither joins nor leaves; an empty answer changes nothing."""
    both = Roster(["a:1", "b:1"])
    assert both.resolved("a:1", ["1:1", "2:1"]) == Change(frozenset({"1:1", "2:1"}), frozenset())
    assert both.resolved("b:1", ["2:1"]) == Change(frozenset(), frozenset())
    assert both.resolved("a:1", ["3:1"]) == Change(frozenset({"3:1"}), frozenset({"1:1"}))
    assert both.resolved("a:1", []) == Change(frozenset(), frozenset())
    assert both.addresses == {"2:1", "3:1"}


def test_what_belongs_together_has_one_key() -> None:
    """A buffer, whatever its session; a session, whatever its document; without either, a document; and never two tenants."""
    asked = Query("", "", path="a.py", tenant="t", session_id="s")
    assert key_of(asked) == key_of(Query("x", "y", path="b.py", tenant="t", session_id="s"))
    assert key_of(Query("", "", path="a.py", tenant="t")) == key_of(Query("x", "y", path="a.py", tenant="t"))
    assert key_of(asked) == key_of(Query("", "", tenant="t", session_id="another", home="s"))
    others = [Query("", "", path="a.py", tenant="t"), Query("", "", path="b.py", tenant="t"), Query("", "", tenant="u", session_id="s")]
    assert len({key_of(each) for each in (asked, *others)}) == 4
