"""How many typists a service carries, from the phases of a ramp. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keyahead.loadtest.binomial import upper

SLOW_SHARE = 0.01
USEFUL_SHARE = 0.9
"""Of what the first phase, a typist alone, had."""


def is_carried(phase: Mapping[str, Any], alone: Mapping[str, Any]) -> bool:
    """Whether p99 is at most 200 ms in a phase, and the useful characters are not surely below 90 % of an undisturbed typist's.

    Phases type different texts, so a smaller share is held against the service only if chance does not explain it at 95 %.
    """
    figures = phase["figures"]
    in_time = figures["eligible"] > 0 and figures["slow"] <= SLOW_SHARE * figures["eligible"]
    best = upper(figures["useful_characters"], figures["typed_characters"])
    return bool(in_time and best >= USEFUL_SHARE * (alone["figures"]["useful_share"] or 0.0))


def capacity(phases: Sequence[Mapping[str, Any]]) -> int:
    """Typists of the last phase before the first that is not carried; 0 if not even the first is."""
    carried = 0
    for phase in phases:
        if not is_carried(phase, phases[0]):
            break
        carried = phase["typists"]
    return carried
