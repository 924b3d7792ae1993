"""What counts towards the objective, as the status page counts it; deploy/slo.yaml says the same to Prometheus (docs/slo.md).

A keystroke overtakes the one before it all the time, so what a call that was given up counts for decides the number.
"""

from __future__ import annotations

from typing import Final

OBJECTIVE_S: Final = 0.2
"""A good answer comes within this."""
TARGET: Final = 0.99
"""The share of eligible calls that must be good."""

NOT_OURS: Final = frozenset({"invalid_argument", "unauthenticated"})
"""Outcomes the client alone has caused: never counted."""
GIVEN_UP: Final = frozenset({"cancelled", "aborted"})
"""The client left, or its session's next request took the place: bad after the objective, before it not counted."""
FAILED: Final = frozenset({"deadline_exceeded", "internal", "unavailable", "resource_exhausted"})
"""Bad however soon they come. An outcome of no set is bad, too."""

FIRST_SERIES: Final = (
    *(("ok", "automatic"), ("ok", "manual")),
    *((outcome, trigger) for outcome in sorted(GIVEN_UP | FAILED) for trigger in ("automatic", "unknown")),
)
"""Outcome and trigger of the series that exist from the start."""


def eligible(outcome: str, trigger: str) -> bool:
    """Whether calls with these labels can count: somebody typed and waited for them, or they were refused before that was known."""
    return trigger != "manual" and outcome not in NOT_OURS


def good_and_total(outcome: str, on_time: float, count: float) -> tuple[float, float]:
    """Good and counted calls among `count` eligible ones of an outcome, of which `on_time` took no longer than the objective."""
    if outcome in GIVEN_UP:
        return 0.0, count - on_time
    return (on_time if outcome == "ok" else 0.0), count
