"""How much each tenant may write: a token bucket of bytes for each, so that one tenant cannot push the others out of a shared Redis."""

from __future__ import annotations

import time
from collections.abc import Callable


class Quota:
    """Token buckets, kept as the moment at which each would be full again (the generic cell rate algorithm, ITU-T I.371)."""

    def __init__(self, bytes_per_s: float, burst_bytes: float, clock: Callable[[], float] = time.monotonic) -> None:
        """So many bytes a second for long, and so many at once."""
        self._bytes_per_s = bytes_per_s
        self._burst_s = burst_bytes / bytes_per_s
        self._clock = clock
        # Tenants come from the operator's tokens file, so there is no end of them only if that has none.
        self._full_at: dict[str, float] = {}

    def take(self, tenant: str, size: int) -> bool:
        """Whether the tenant may write `size` bytes now; if so, they are counted."""
        now = self._clock()
        full_at = max(now, self._full_at.get(tenant, now)) + size / self._bytes_per_s
        if full_at > now + self._burst_s:
            return False
        self._full_at[tenant] = full_at
        return True
