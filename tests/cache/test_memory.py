"""The memory tier."""

from __future__ import annotations

import gc
import tracemalloc

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from keyahead.cache.anchors import CANDIDATES, Candidate, locate
from keyahead.cache.interface import Entry, Scope
from keyahead.cache.memory import MemoryTier

TTL_S = 60.0
SCOPES = st.sampled_from([Scope("a", "m", "1", ""), Scope("b", "m", "1", ""), Scope("a", "m", "1", "block")])
# A small alphabet and short texts make typed-through look-ups, collisions and line ends frequent.
TEXTS = st.text(alphabet="ab\n", max_size=6)
SUFFIXES = st.sampled_from(["", "a", "\nb"])
SCOPE = Scope("a", "m", "1", "")


def entry(text: str) -> Entry:
    return Entry(text, "stop", 1, (len(text),))


def put(tier: MemoryTier, prefix: str, text: str, scope: Scope = SCOPE, suffix: str = "") -> None:
    here = locate(scope, prefix, suffix)[0]
    tier.put(here.anchor, Candidate(here.since, entry(text)))


def find(tier: MemoryTier, prefix: str, scope: Scope = SCOPE, suffix: str = "") -> str | None:
    found = tier.find(locate(scope, prefix, suffix))
    return found.remainder().text if found else None


class AgainstModel(RuleBasedStateMachine):
    """The tier beside a plain list of everything ever stored. Texts are short, so the text above a line is all the text above it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tier = MemoryTier(1 << 20, TTL_S, clock=lambda: self.now)
        self.stored: list[tuple[Scope, str, str, str]] = []

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
        self.now += TTL_S
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


def test_the_limit_is_true() -> None:
    """Python's own count of the memory taken stays within the limit, and the tier makes use of it."""
    limit = 1 << 19
    tier = MemoryTier(limit, TTL_S)
    gc.collect()
    tracemalloc.start()
    for n in range(1000):
        ends = tuple(range(1000 + n, 1040 + n))
        here = locate(SCOPE, f"line {n}\n" * 40 + "x = ", f"# {n}")[0]
        tier.put(here.anchor, Candidate(here.since, Entry(f"{n:0160}", "stop", 40, ends)))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < len(tier) < 1000
    assert 0.5 * limit < taken <= limit
