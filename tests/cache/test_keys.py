"""Names of anchors in Redis."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.cache.anchors import Anchor, locate
from keyahead.cache.interface import Scope
from keyahead.cache.keys import Keyring, pack

KEYRING = Keyring(b"k" * 32)
ANCHOR = Anchor(Scope("acme", "0123456789ab", "1", "single_line"), "def f():\n", "\n")


def test_fields_do_not_run_into_each_other() -> None:
    """The published trap: organisation 1 with user 2345 is not organisation 12345 with no user."""
    assert pack(["org_1", "2345"]) != pack(["org_12345", ""])
    scope = ANCHOR.scope
    first = ANCHOR._replace(scope=scope._replace(tenant="org_1", model="2345"))
    second = ANCHOR._replace(scope=scope._replace(tenant="org_12345", model=""))
    assert KEYRING.name(first) != KEYRING.name(second)


@given(st.lists(st.text()), st.lists(st.text()))
def test_packing_is_injective(one: list[str], other: list[str]) -> None:
    """Different sequences of texts never pack to the same bytes."""
    assert (pack(one) == pack(other)) == (one == other)


def test_every_field_and_the_server_key_change_the_name() -> None:
    """Anchors that differ in one field only have different names, and so have equal anchors under different keys."""
    scopes = [ANCHOR.scope._replace(**{field: "other"}) for field in Scope._fields]
    anchors = [ANCHOR, ANCHOR._replace(above="other"), ANCHOR._replace(below="other"), *(ANCHOR._replace(scope=scope) for scope in scopes)]
    names = {KEYRING.name(anchor) for anchor in anchors} | {Keyring(b"l" * 32).name(ANCHOR)}
    assert len(names) == len(anchors) + 1


def test_places_of_one_look_up_share_a_cluster_slot() -> None:
    """The hash tag is the same at every line of one cursor and differs between tenants; a place has the name it has by itself."""
    anchors = [place.anchor for place in locate(ANCHOR.scope, "a\nb\nc\nd", "\nend")]
    names = KEYRING.names(anchors)
    assert names == [KEYRING.name(anchor) for anchor in anchors]
    other = KEYRING.name(next(locate(ANCHOR.scope._replace(tenant="other"), "a\nb\nc\nd", "\nend")).anchor)
    assert len(set(names)) == 4
    assert len({name.split("}")[0] for name in names}) == 1
    assert other.split("}")[0] != names[0].split("}")[0]


def test_a_name_is_digests_only() -> None:
    """Nothing of the text or the tenant is in a name."""
    assert re.fullmatch(r"c:2:\{[0-9a-f]{16}\}:[0-9a-f]{32}", KEYRING.name(ANCHOR))


def test_a_short_server_key_is_refused() -> None:
    """The error names the setting and the cure."""
    with pytest.raises(ValueError, match=r"cache server_key: it has 5 bytes, at least 32 are needed; 'openssl rand -hex 32' makes one"):
        Keyring(b"short")
