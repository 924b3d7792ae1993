"""The memory tier: candidates by anchor, bounded in bytes, the least recently used and the too old thrown out, each tenant's by itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import count

from cachetools import TTLCache

from keyahead.cache.anchors import CANDIDATES, Anchor, Candidate, Found, Place, add, best
from keyahead.cache.interface import Neighbour

# What an anchor and a candidate cost besides their texts and offsets: objects, dictionary entries and list links (measured on CPython 3.11
# and rounded up; a test watches it). As every anchor costs this much, the limit in bytes also limits their number.
_ANCHOR_BYTES = 1024
_CANDIDATE_BYTES = 288
_INT_BYTES = 28


@dataclass(frozen=True, slots=True)
class _Slot:
    candidates: tuple[Candidate, ...]
    size: int


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
        self._tenants: dict[str, TTLCache[Anchor, _Slot]] = {}
        self._numbers = count(1)

    @property
    def size(self) -> int:
        """Bytes held, as counted against the limit."""
        return sum(int(slots.currsize) for slots in self._tenants.values())

    def __len__(self) -> int:
        """Anchors held."""
        return sum(len(slots) for slots in self._tenants.values())

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
        tenant = anchor.scope.tenant
        if tenant not in self._tenants:
            self._tenants[tenant] = TTLCache(self._max_bytes, self._ttl_s, timer=self._clock, getsizeof=lambda slot: slot.size)
        self._tenants[tenant][anchor] = _Slot(candidates, size)
        if self.size > self._max_bytes:
            self._make_room()

    def _at(self, anchor: Anchor) -> tuple[Candidate, ...]:
        slots = self._tenants.get(anchor.scope.tenant)
        slot = slots.get(anchor) if slots is not None else None
        return slot.candidates if slot else ()

    def _make_room(self) -> None:
        for tenant, slots in list(self._tenants.items()):
            slots.expire()
            if not slots:
                del self._tenants[tenant]
        while self.size > self._max_bytes:
            with suppress(KeyError):  # its last ones have become too old meanwhile
                max(self._tenants.values(), key=lambda slots: slots.currsize).popitem()


def _size(anchor: Anchor, candidates: tuple[Candidate, ...]) -> int:
    texts = sys.getsizeof(anchor.above) + sys.getsizeof(anchor.below)
    for candidate in candidates:
        entry = candidate.entry
        texts += sys.getsizeof(candidate.line) + sys.getsizeof(entry.text)
        texts += sys.getsizeof(entry.token_ends) + _INT_BYTES * len(entry.token_ends)
    return _ANCHOR_BYTES + _CANDIDATE_BYTES * len(candidates) + texts
