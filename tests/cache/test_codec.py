"""Values in Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.cache.anchors import Anchor, Candidate
from keyahead.cache.codec import BadValue, Codec
from keyahead.cache.interface import Entry, Scope
from keyahead.cache.keys import Keyring

CODEC = Codec(Keyring(b"k" * 32))
SCOPES = st.builds(Scope, st.text(), st.text(), st.text(), st.text())
ANCHORS = st.builds(Anchor, SCOPES, st.text(), st.text())
ENTRIES = st.builds(Entry, st.text(), st.text(), st.integers(0, 1000), st.lists(st.integers(0, 1000)).map(tuple), st.floats(0, 1))
CANDIDATES = st.builds(Candidate, st.text(), ENTRIES)
ANCHOR = Anchor(Scope("acme", "0123456789ab", "1", ""), "above\n", "below")
CANDIDATE = Candidate("x = ", Entry("canary_value()", "stop", 2, (6, 14)))


@given(ANCHORS, CANDIDATES)
def test_what_is_sealed_opens(anchor: Anchor, candidate: Candidate) -> None:
    """Any candidate comes back as it was."""
    assert CODEC.open(anchor, [CODEC.seal(anchor, candidate)]) == [candidate]


@given(ANCHORS, ANCHORS, CANDIDATES)
def test_a_value_opens_at_its_own_anchor_only(anchor: Anchor, other: Anchor, candidate: Candidate) -> None:
    """A value found under another anchor, by a collision or by malice, is refused."""
    value = CODEC.seal(anchor, candidate)
    if other != anchor:
        with pytest.raises(BadValue):
            CODEC.open(other, [value])


@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    """A changed or missing byte anywhere makes a value bad."""
    value = CODEC.seal(ANCHOR, CANDIDATE)
    at = data.draw(st.integers(0, len(value) - 1))
    changed = value[:at] + bytes([value[at] ^ data.draw(st.integers(1, 255))]) + value[at + 1 :]
    for bad in (changed, value[:at]):
        with pytest.raises(BadValue):
            CODEC.open(ANCHOR, [bad])


def test_another_server_key_opens_nothing() -> None:
    """Values written under a former key are bad values, not errors."""
    with pytest.raises(BadValue):
        Codec(Keyring(b"l" * 32)).open(ANCHOR, [CODEC.seal(ANCHOR, CANDIDATE)])


def test_equal_candidates_give_equal_values_at_one_anchor_only() -> None:
    """Redis can tell that it has a candidate already, but not that two anchors hold the same one; and it sees none of the text."""
    value = CODEC.seal(ANCHOR, CANDIDATE)
    assert value == CODEC.seal(ANCHOR, CANDIDATE)
    assert value != CODEC.seal(ANCHOR._replace(above="other"), CANDIDATE)
    assert b"canary" not in value
