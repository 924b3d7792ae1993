"""The memory tier: candidates by anchor, bounded in bytes, the least recently used and the too old thrown out, each tenant's by itself."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import count

from keyahead.cache.anchors import CANDIDATES, Anchor, Candidate, Found, Place, add, best
from keyahead.cache.interface import Neighbour

# What an anchor and a candidate cost besides their texts and offsets: objects, dictionary entries and list links (measured on CPython 3.11
# and rounded up, also where each is its tenant's only one; a test watches it). As every anchor costs this much, the limit in bytes also
# limits their number.
_ANCHOR_BYTES = 1280
_CANDIDATE_BYTES = 288
_INT_BYTES = 28


@dataclass(frozen=True, slots=True)
class _Slot:
    candidates: tuple[Candidate, ...]
    size: int
    until: float
    """When it is too old."""


class MemoryTier:
    """Candidates in this process. The text itself is the key, so a hit has been compared with the text it claims.

    When the tier is full, the tenant that holds most gives up what it has not used for longest. So a tenant may take all that nobody else
    wants, but whatever the others do, it keeps what it holds up to an equal share.
    """

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep at most `max_bytes`, and no anchor for longer than `ttl_s` seconds after the last store there."""
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._slots: OrderedDict[Anchor, _Slot] = OrderedDict()
        """The one stored longest ago first."""
        self._used: dict[str, OrderedDict[Anchor, None]] = {}
        """Each tenant's anchors, the least recently used first."""
        self._held: dict[str, int] = {}
        """Bytes of each tenant."""
        self._numbers = count(1)
        self.size = 0
        """Bytes held, as counted against the limit."""

    def __len__(self) -> int:
        """Anchors held."""
        return len(self._slots)

    def find(self, places: Iterable[Place]) -> Found | None:
        """The best candidate of the nearest place that has one."""
        for place in places:
            if found := best(place, self._at(place.anchor)):
                return found
        return None

    def neighbours(self, places: Iterable[Place]) -> list[Neighbour]:
        """Candidates of all places, the newest first, as many as one place may have."""
        held = ((candidate, place.since) for place in places for candidate in self._at(place.anchor))
        newest = nlargest(CANDIDATES, held, key=lambda pair: pair[0].number)
        return [Neighbour(candidate.line, candidate.entry.text, since) for candidate, since in newest]

    def put(self, anchor: Anchor, candidate: Candidate) -> None:
        """Add a candidate; one larger than the whole tier is not kept."""
        candidates = add(self._at(anchor), replace(candidate, number=next(self._numbers)))
        size = _size(anchor, candidates)
        if size > self._max_bytes:
            return
        self._drop(anchor)
        tenant = anchor.scope.tenant
        self._slots[anchor] = _Slot(candidates, size, self._clock() + self._ttl_s)
        self._used.setdefault(tenant, OrderedDict())[anchor] = None
        self._held[tenant] = self._held.get(tenant, 0) + size
        self.size += size
        self._make_room()

    def _at(self, anchor: Anchor) -> tuple[Candidate, ...]:
        slot = self._slots.get(anchor)
        if slot is None or slot.until <= self._clock():
            return ()
        self._used[anchor.scope.tenant].move_to_end(anchor)
        return slot.candidates

    def _make_room(self) -> None:
        """Drop what is too old, then as much more as there is too much."""
        now = self._clock()
        while self._slots:
            oldest = next(iter(self._slots))
            if self._slots[oldest].until <= now:
                self._drop(oldest)
            elif self.size > self._max_bytes:
                self._drop(next(iter(self._used[max(self._held, key=self._held.__getitem__)])))
            else:
                return

    def _drop(self, anchor: Anchor) -> None:
        slot = self._slots.pop(anchor, None)
        if slot is None:
            return
        tenant = anchor.scope.tenant
        self.size -= slot.size
        self._held[tenant] -= slot.size
        del self._used[tenant][anchor]
        if not self._used[tenant]:
            del self._used[tenant], self._held[tenant]


def _size(anchor: Anchor, candidates: tuple[Candidate, ...]) -> int:
    texts = sys.getsizeof(anchor.above) + sys.getsizeof(anchor.below)
    for candidate in candidates:
        entry = candidate.entry
        texts += sys.getsizeof(candidate.line) + sys.getsizeof(entry.text)
        texts += sys.getsizeof(entry.token_ends) + _INT_BYTES * len(entry.token_ends)
    return _ANCHOR_BYTES + _CANDIDATE_BYTES * len(candidates) + texts
