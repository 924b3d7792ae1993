"""How much of the engine each tenant has had lately, and who is beyond its share.

A tenant's share is its weight among the tenants that are active. Its use is the part of the last seconds that the engine worked for it,
with older time counting less and less. Who has used less of its share goes first, in levels of a quarter, so that deadlines decide between
tenants that are about even. A tenant that asks for little is therefore served at once, whatever the others ask for, and one that asks for
everything gets what is left, which is its share and what others leave of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

WINDOW_S = 5.0
"""Time constant of the use: long against an answer (0.2 s) and the gaps of a typing burst, short against a coffee."""
RECENT_S = 5.0
"""A tenant stays active for so long after its last request: pauses within a burst of typing are shorter."""
LEVELS = 4
"""Levels in a share: a tenant at this level or above has used all of its share. Finer ones would leave nothing for deadlines to decide."""
_FORGET_MS = 1.0


@dataclass(slots=True)
class _Use:
    weight: int
    milliseconds: float = 0.0
    """Engine time, each moment of it discounted by its age."""
    at: float = 0.0
    """When it was discounted last."""
    seen: float = -math.inf
    """When the tenant last wanted something."""

    def discount(self, now: float) -> float:
        """Bring up to date, and give the discounted milliseconds."""
        self.milliseconds *= math.exp(min(0.0, self.at - now) / WINDOW_S)
        self.at = now
        return self.milliseconds


class Shares:
    """The engine's time by tenant. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}
        self.contended = False
        """Whether more than one tenant was active when `levels` was asked last."""

    def charge(self, tenant: str, milliseconds: float, now: float) -> None:
        """Book engine time that a tenant has had. One that `levels` has never been told of is not known, and free of charge."""
        use = self._uses.get(tenant)
        if use is not None:
            use.discount(now)
            use.milliseconds += milliseconds

    def levels(self, present: Mapping[str, int], now: float) -> dict[str, int]:
        """For each tenant that has work now, how many `LEVELS`-th parts of its share it uses; 0 for one that has nobody to share with.

        Args:
            present: weight of each tenant that has work, from 1 on.
            now: the time.

        """
        for tenant, weight in present.items():
            use = self._uses.setdefault(tenant, _Use(weight, at=now))
            use.weight, use.seen = weight, now
        self._forget(now)
        active = [use.weight for use in self._uses.values() if use.seen > now - RECENT_S]
        self.contended = len(active) > 1
        total = sum(active)
        return {tenant: _level(self._uses[tenant], total, now) for tenant in present}

    def _forget(self, now: float) -> None:
        gone = [tenant for tenant, use in self._uses.items() if use.seen <= now - RECENT_S and use.discount(now) < _FORGET_MS]
        for tenant in gone:
            del self._uses[tenant]


def _level(use: _Use, total_weight: int, now: float) -> int:
    if use.weight == total_weight:
        return 0
    used = use.discount(now) / (WINDOW_S * 1e3)
    return int(LEVELS * used * total_weight / use.weight)
