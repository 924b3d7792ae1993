"""The memory tier."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from itertools import count
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from keyahead.cache.anchors import CANDIDATES, Anchor, Candidate, Found, Place, locate
from keyahead.cache.interface import Entry, Neighbour, Scope
from keyahead.cache.memory import MemoryTier

TTL_S = 60.0
SCOPES = st.sampled_from([Scope("a", "m", "1", ""), Scope("b", "m", "1", ""), Scope("a", "m", "1", "block")])
# A small alphabet and short texts make typed-through look-ups, collisions and line ends frequent.
TEXTS = st.text(alphabet="ab\n", max_size=6)
SUFFIXES = st.sampled_from(["", "a", "\nb"])
SCOPE = Scope("a", "m", "1", "")


def entry(text: str) -> Entry:
    return Entry(text, "stop", 1, (len(text),))


class Tier(Protocol):
    """What the model is held against."""

    def put(self, anchor: Anchor, candidate: Candidate) -> None: ...

    def find(self, places: Iterable[Place]) -> Found | None: ...


def put(tier: Tier, prefix: str, text: str, scope: Scope = SCOPE, suffix: str = "") -> None:
    here = next(locate(scope, prefix, suffix))
    tier.put(here.anchor, Candidate(here.since, entry(text)))


def find(tier: Tier, prefix: str, scope: Scope = SCOPE, suffix: str = "") -> str | None:
    found = tier.find(locate(scope, prefix, suffix))
    return found.remainder().text if found else None


class AgainstModel(RuleBasedStateMachine):
    """The tier beside a plain list of everything ever stored. Texts are short, so the text above a line is all the text above it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tier = self.make_tier()
        self.stored: list[tuple[Scope, str, str, str]] = []

    def make_tier(self) -> Tier:
        return MemoryTier(1 << 20, TTL_S, clock=lambda: self.now)

    def forget(self) -> None:
        self.now += TTL_S

    @rule(scope=SCOPES, prefix=TEXTS, suffix=SUFFIXES, text=TEXTS.filter(bool))
    def store(self, scope: Scope, prefix: str, suffix: str, text: str) -> None:
        put(self.tier, prefix, text, scope, suffix)
        self.stored.append((scope, suffix, prefix, text))

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), back=st.integers(1, 3), text=TEXTS)
    def store_a_little_earlier(self, data: st.DataObject, back: int, text: str) -> None:
        scope, suffix, prefix, known = data.draw(st.sampled_from(self.stored))
        self.store(scope, prefix[:-back], suffix, prefix[-back:] + known + text)

    @rule()
    def expire(self) -> None:
        self.forget()
        self.stored.clear()

    @rule(scope=SCOPES, prefix=TEXTS, suffix=SUFFIXES)
    def look_up_anywhere(self, scope: Scope, prefix: str, suffix: str) -> None:
        self.check(scope, suffix, prefix)

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), cut=st.integers(0, 6))
    def look_up_what_was_stored(self, data: st.DataObject, cut: int) -> None:
        scope, suffix, prefix, text = data.draw(st.sampled_from(self.stored))
        self.check(scope, suffix, prefix + text[:cut])

    def check(self, scope: Scope, suffix: str, now: str) -> None:
        """What is found continues a stored text; what was stored lately is found, and first of all what was asked exactly here."""
        fits = [(then, text) for s, x, then, text in self.stored if (s, x) == (scope, suffix) and continues(now, then, text)]
        # What a place must still hold however the stores were spread, and of that what was asked exactly here.
        kept = [(then, text) for s, x, then, text in self.stored[-CANDIDATES:] if (then, text) in fits and (s, x) == (scope, suffix)]
        exact = [text for then, text in kept if then == now]
        found = self.tier.find(locate(scope, now, suffix))
        if found is None:
            assert not kept
        else:
            assert now + found.remainder().text in {then + text for then, text in fits}
            assert not exact or (found.typed, found.remainder().text) == (0, exact[-1])


def continues(now: str, then: str, text: str) -> bool:
    """Whether the completion `text` of `then` has something left that continues `now`."""
    return now.startswith(then) and (then + text).startswith(now) and then + text != now


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=60, stateful_step_count=40)


def test_the_least_recently_used_goes_first() -> None:
    """When the tier is full, a place looked at lately outlives one that was stored later."""
    tier = MemoryTier(8 * 1024, TTL_S)
    put(tier, "first = ", "1", suffix="one")
    put(tier, "second = ", "2", suffix="two")
    for n in range(20):
        assert find(tier, "first = ", suffix="one") == "1"
        put(tier, "x = ", "3", suffix=f"more {n}")
    assert find(tier, "second = ", suffix="two") is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3000)), max_size=80))
def test_a_tenant_keeps_an_equal_share_whatever_the_others_do(stores: list[tuple[str, int]]) -> None:
    """The tier never holds too much, and a tenant that has lost anything holds no less than its share, but for one entry's size."""
    limit, largest = 24 * 1024, 5 * 1024
    tier = MemoryTier(limit, TTL_S)
    stored = Counter[str]()
    for number, (tenant, length) in enumerate(stores):
        put(tier, f"{number} = ", "x" * length, Scope(tenant, "m", "1", ""), suffix=str(number))
        stored[tenant] += 1
        assert tier.size <= limit
    assert tier.size == sum(tier._held.values()) == sum(slot.size for slot in tier._slots.values())
    for tenant, number in stored.items():
        assert len(tier._used.get(tenant, ())) == number or tier._held.get(tenant, 0) >= limit / len(stored) - largest


@pytest.mark.parametrize("num_tenants", [1, 500])
def test_a_store_is_as_quick_however_many_tenants_there_are(num_tenants: int) -> None:
    """In a full tier, too: it looks at what goes and not at every tenant's, as often as it asks for the time."""
    asked = count()
    tier = MemoryTier(256 * 1024, TTL_S, clock=lambda: next(asked) * 1e-9)
    for number in range(1000):
        put(tier, "x = ", "1", Scope(str(number % num_tenants), "m", "1", ""), suffix=str(number))
    before = next(asked)
    put(tier, "x = ", "2")
    assert len(tier) < 500
    assert next(asked) - before < 10


def test_one_tenant_may_use_all_that_nobody_else_wants() -> None:
    """Alone, a tenant fills the tier; when another one comes, it finds room at the first one's expense."""
    tier = MemoryTier(64 * 1024, TTL_S)
    for number in range(200):
        put(tier, "x = ", "1", suffix=f"# {number}")
    alone = len(tier)
    assert tier.size > 60 * 1024
    quiet = Scope("quiet", "m", "1", "")
    put(tier, "y = ", "2", quiet)
    for number in range(200):
        put(tier, "x = ", "1", suffix=f"# more {number}")
    assert find(tier, "y = ", quiet) == "2"
    assert len(tier) >= alone - 2


def test_what_is_too_old_makes_room_first() -> None:
    """Nothing that still serves is given up while a tenant that left long ago holds anything."""
    now = 0.0
    tier = MemoryTier(16 * 1024, TTL_S, clock=lambda: now)
    for number in range(5):
        put(tier, "x = ", "1", Scope("left", "m", "1", ""), suffix=str(number))
    now = TTL_S
    for number in range(5):
        put(tier, "x = ", "1", suffix=str(number))
    put(tier, "x = ", "2" * 5000, suffix="large")
    assert [find(tier, "x = ", suffix=str(number)) for number in range(5)] == ["1"] * 5


def test_neighbours_are_all_that_hangs_near_whether_or_not_it_fits() -> None:
    """Newest first over all lines, with what their lines held and what is there now; what hangs elsewhere is none."""
    tier = MemoryTier(1 << 20, TTL_S)
    put(tier, "a = ", "one\ntwo = 2")
    put(tier, "a = one\nt", "hree = 3")
    put(tier, "a = o", "ther")
    put(tier, "b\na = ", "elsewhere")
    places = locate(SCOPE, "a = one\ntwo", "")
    assert tier.neighbours(places) == [
        Neighbour("a = o", "ther", "a = one\ntwo"),
        Neighbour("t", "hree = 3", "two"),
        Neighbour("a = ", "one\ntwo = 2", "a = one\ntwo"),
    ]
    assert tier.neighbours(locate(Scope("b", "m", "1", ""), "a = one\ntwo", "")) == []


def test_there_are_few_neighbours() -> None:
    """However much hangs at the nine places, the newest eight are given, and one stored again counts as new."""
    tier = MemoryTier(1 << 20, TTL_S)
    for number in range(CANDIDATES):
        put(tier, "", f"first {number}")
    for number in range(3):
        put(tier, "x\n", f"second {number}")
    put(tier, "", "first 0")
    texts = [neighbour.text for neighbour in tier.neighbours(locate(SCOPE, "x\n", ""))]
    assert texts == ["first 0", "second 2", "second 1", "second 0", "first 7", "first 6", "first 5", "first 4"]


def test_an_entry_expires() -> None:
    """It is served until the time to live is over, not after."""
    now = 0.0
    tier = MemoryTier(1 << 20, TTL_S, clock=lambda: now)
    put(tier, "x = ", "1")
    now = TTL_S - 0.1
    assert find(tier, "x = ") == "1"
    now = TTL_S
    assert find(tier, "x = ") is None


def test_what_is_larger_than_the_tier_is_not_kept() -> None:
    """A huge completion neither fails nor throws the others out."""
    tier = MemoryTier(16 * 1024, TTL_S)
    put(tier, "x = ", "1", suffix="one")
    put(tier, "x = ", "9" * 20_000, suffix="two")
    assert find(tier, "x = ", suffix="two") is None
    assert find(tier, "x = ", suffix="one") == "1"


@pytest.mark.parametrize("num_tenants", [1, 1000])
def test_the_limit_is_true(num_tenants: int) -> None:
    """Python's own count of the memory taken stays within the limit, and the tier makes use of it."""
    limit = 1 << 19
    tier = MemoryTier(limit, TTL_S)
    gc.collect()
    tracemalloc.start()
    for n in range(1000):
        ends = tuple(range(1000 + n, 1040 + n))
        scope = Scope(str(n % num_tenants), "m", "1", "")
        here = next(locate(scope, f"line {n}\n" * 40 + "x = ", f"# {n}"))
        tier.put(here.anchor, Candidate(here.since, Entry(f"{n:0160}", "stop", 40, ends)))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < len(tier) < 1000
    assert 0.5 * limit < taken <= limit
