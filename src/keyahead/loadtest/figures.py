"""What the records of a run come to.

Who counts for the promise is the rule of docs/loadtest.md: a request is *eligible* unless a newer key superseded it, or the run ended,
within the 200 ms, or it only followed up on an unfinished answer. Of the eligible, the good ones were answered within the 200 ms.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from keyahead.loadtest.judge import ON_TIME_S, Outcome, Record, Typed

_OPEN = (Outcome.SUPERSEDED, Outcome.UNANSWERED)


def is_eligible(record: Record) -> bool:
    """Whether the promise was made for it."""
    return not record.follow_up and not (record.outcome in _OPEN and record.latency_s <= ON_TIME_S)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest of the values, which are sorted, that is not below so many percent of them; None of none."""
    return values[max(0, math.ceil(len(values) * percent / 100) - 1)] if values else None


def summarize(records: Iterable[Record], typed: Sequence[Typed], duration_s: float) -> dict[str, Any]:
    """The figures of one phase of a run. Latencies are in milliseconds from the intended key, of all eligible requests; one that was
    superseded or failed counts with the time until then.
    """
    everything = list(records)
    asked = [record for record in everything if not record.follow_up]
    eligible = [record for record in asked if is_eligible(record)]
    latencies = sorted(record.latency_s * 1000 for record in eligible)
    keys = len(typed)
    useful = sum(key.useful for key in typed)
    return {
        "duration_s": duration_s,
        "asked": len(asked),
        "follow_ups": len(everything) - len(asked),
        "outcomes": dict(Counter(record.outcome.value for record in asked)),
        "errors": dict(Counter(record.detail for record in everything if record.outcome is Outcome.FAILED)),
        "sources": dict(Counter(record.detail for record in asked if record.outcome is Outcome.ANSWERED)),
        "eligible": len(eligible),
        "slow": sum(not record.on_time for record in eligible),
        "latency_ms": {f"p{percent}": percentile(latencies, percent) for percent in (50, 90, 95, 99)},
        "before_next_key": sum(record.before_next_key for record in asked),
        "painted": sum(record.painted for record in asked),
        "typed_characters": keys,
        "useful_characters": useful,
        "predicted_characters": sum(key.predicted for key in typed),
        "taken_characters": sum(key.taken for key in typed),
        "useful_share": useful / keys if keys else None,
        "useful_characters_per_minute": useful / duration_s * 60,
        "tokens_in": sum(record.tokens_in for record in everything),
        "tokens_out": sum(record.tokens_out for record in everything),
    }
