"""The memory tier: candidates by anchor, bounded in bytes, the least recently used and the too old thrown out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cachetools import TTLCache

from keyahead.cache.anchors import Anchor, Candidate, Found, Place, add, best

# What an anchor and a candidate cost besides their texts and offsets: objects, dictionary entries and list links (measured on CPython 3.11
# and rounded up; a test watches it). As every anchor costs this much, the limit in bytes also limits their number.
_ANCHOR_BYTES = 1024
_CANDIDATE_BYTES = 256
_INT_BYTES = 28


@dataclass(frozen=True, slots=True)
class _Slot:
    candidates: tuple[Candidate, ...]
    size: int


class MemoryTier:
    """Candidates in this process. The text itself is the key, so a hit has been compared with the text it claims."""

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep at most `max_bytes`, and no anchor for longer than `ttl_s` seconds after the last store there."""
        self._slots: TTLCache[Anchor, _Slot] = TTLCache(max_bytes, ttl_s, timer=clock, getsizeof=lambda slot: slot.size)

    @property
    def size(self) -> int:
        """Bytes held, as counted against the limit."""
        return int(self._slots.currsize)

    def __len__(self) -> int:
        """Anchors held."""
        return len(self._slots)

    def find(self, places: Iterable[Place]) -> Found | None:
        """The best candidate of the nearest place that has one."""
        for place in places:
            slot = self._slots.get(place.anchor)
            if slot is not None and (found := best(place, slot.candidates)):
                return found
        return None

    def put(self, anchor: Anchor, candidate: Candidate) -> None:
        """Add a candidate; one larger than the whole tier is not kept."""
        slot = self._slots.get(anchor)
        candidates = add(slot.candidates if slot else (), candidate)
        size = _size(anchor, candidates)
        if size <= self._slots.maxsize:
            self._slots[anchor] = _Slot(candidates, size)


def _size(anchor: Anchor, candidates: tuple[Candidate, ...]) -> int:
    texts = sys.getsizeof(anchor.above) + sys.getsizeof(anchor.below)
    for candidate in candidates:
        entry = candidate.entry
        texts += sys.getsizeof(candidate.line) + sys.getsizeof(entry.text)
        texts += sys.getsizeof(entry.token_ends) + _INT_BYTES * len(entry.token_ends)
    return _ANCHOR_BYTES + _CANDIDATE_BYTES * len(candidates) + texts
