"""How much of Redis the engine's KV blocks may take: bytes kept, and bytes written per second. Synchronous; the clock is given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from keyahead.engine.cpu.blocks import Digest, Tokens

Key = tuple[Digest, Tokens]
"""A block: its parent's digest and its own tokens."""


class Ledger:
    """What this engine believes to lie in Redis, least recently used first: at most `capacity` blocks, each for `ttl_s` seconds.

    Redis may have lost a block that is listed here; whoever finds that out calls `discard`.
    """

    def __init__(self, capacity: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._clock = clock
        self._blocks: OrderedDict[Key, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def has(self, key: Key) -> bool:
        """Whether a block is there; it counts as used."""
        known = self._blocks.get(key)
        if known is None or known[1] <= self._clock():
            return False
        self._blocks.move_to_end(key)
        return True

    def add(self, key: Key, name: str) -> list[str]:
        """List a block under its name in Redis; the names of those that have to go for it."""
        self._blocks.pop(key, None)
        self._blocks[key] = (name, self._clock() + self._ttl_s)
        surplus = len(self._blocks) - self._capacity
        return [self._blocks.popitem(last=False)[1][0] for _ in range(surplus)]

    def discard(self, key: Key) -> None:
        """It is not there."""
        self._blocks.pop(key, None)


class Allowance:
    """A token bucket: `rate` bytes per second in the long run, `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def spend(self, num_bytes: int) -> float:
        """Take these bytes out; how many seconds to wait before using them."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - num_bytes
        self._at = now
        return max(0.0, -self._left / self._rate)
