"""A circuit breaker: stops asking a service that fails, and finds out when it is well again. Synchronous; the clock is given."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from cachetools import LRUCache

from keyahead.cache.interface import BreakerState


class Breaker:
    """Closed: calls pass. Open: none does. Half open: one probe is under way, and its outcome decides."""

    def __init__(
        self,
        on_change: Callable[[BreakerState], None],
        failures: int = 3,
        window_s: float = 2.0,
        pause_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open after `failures` within `window_s` seconds; allow a probe `pause_s` seconds later."""
        self._on_change = on_change
        self._window_s = window_s
        self._pause_s = pause_s
        self._clock = clock
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._opened_at = 0.0
        self._state: BreakerState = "closed"

    @property
    def state(self) -> BreakerState:
        """Where the breaker stands; an open one does not become half open by itself but by `take_probe`."""
        return self._state

    def take_probe(self) -> bool:
        """Whether the caller is to probe now: true once when the pause is over. It must then report the outcome."""
        if self._state != "open" or self._clock() - self._opened_at < self._pause_s:
            return False
        self._change("half_open")
        return True

    def succeeded(self) -> None:
        """A call or the probe went well. (A call that began before the breaker opened changes nothing.)"""
        if self._state == "half_open":
            self._failed_at.clear()
            self._change("closed")

    def failed(self) -> None:
        """A call or the probe went wrong or took too long."""
        now = self._clock()
        if self._state == "closed":
            self._failed_at.append(now)
            burst = len(self._failed_at) == self._failed_at.maxlen
            if not burst or now - self._failed_at[0] > self._window_s:
                return
        if self._state != "open":
            self._opened_at = now
            self._change("open")

    def _change(self, state: BreakerState) -> None:
        self._state = state
        self._on_change(state)


MAX_SERVERS = 1000
"""Nodes of a cluster at most (Redis' cluster specification). Where nodes come back under new addresses, the old ones are forgotten."""


class Breakers:
    """A breaker for each server, found by a key that the server answers for: one that is down shuts out no other."""

    def __init__(self, on_change: Callable[[BreakerState], None], server_of: Callable[[str], str]) -> None:
        """Changes of all are reported alike; `server_of` names the server of a key."""
        self._server_of = server_of
        self._on_change = on_change
        self._by_server: LRUCache[str, Breaker] = LRUCache(MAX_SERVERS)

    def of(self, key: str) -> Breaker:
        """The breaker in front of the server that has this key now."""
        server = self._server_of(key)
        if server not in self._by_server:
            self._by_server[server] = Breaker(self._on_change)
        return self._by_server[server]
