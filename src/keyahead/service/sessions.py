"""Which request of a session counts: the newest."""

from __future__ import annotations

from cachetools import LRUCache

from keyahead.service.generation import Generation, Place, Waiter

_MAX_SESSIONS = 4096
Key = tuple[str, str]
"""Tenant and session id."""


class Sessions:
    """The newest request of every session, and the generation begun for it."""

    def __init__(self) -> None:
        self._newest: LRUCache[Key, Waiter] = LRUCache(_MAX_SESSIONS)
        self._generations: dict[Key, Generation] = {}

    def enter(self, key: Key, waiter: Waiter) -> None:
        """A new request; the session's older one, if it still runs, is told that it is superseded. An empty session id is no session."""
        if not key[1]:
            return
        older = self._newest.get(key)
        self._newest[key] = waiter
        if older is not None:
            older.supersede()

    def choose(self, key: Key, place: Place, chosen: Generation | None) -> None:
        """The newest request is served by `chosen` (None: by the cache). The older generation ends, unless it still agrees with what has
        been typed or a request of another session waits for it.
        """
        if not key[1]:
            return
        older = self._generations.get(key)
        if older is not None and older is not chosen and not older.wanted and not older.agrees(place):
            older.stop()
        if chosen is not None and not chosen.done:
            self._generations[key] = chosen

    def forget(self, generation: Generation) -> None:
        """A generation has ended."""
        for key in [key for key, other in self._generations.items() if other is generation]:
            del self._generations[key]
