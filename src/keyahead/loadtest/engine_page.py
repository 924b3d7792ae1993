"""What the engine's Prometheus page says about cancels, before and after a run."""

from __future__ import annotations

import re
import urllib.request

_TIMEOUT_S = 5.0
_CANCELLED, _TOKENS_AFTER = "keyahead_engine_cancelled_total", "keyahead_engine_tokens_after_cancel_total"
_SAMPLE = re.compile(rf"^({_CANCELLED}|{_TOKENS_AFTER})(?:\{{[^}}]*\}})? ([0-9.e+]+)$", re.MULTILINE)


def read(url: str) -> dict[str, float]:
    """Requests cancelled, and tokens computed for them afterwards, since the engine's start. Raises OSError."""
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as page:  # noqa: S310  # the operator's own address
        return parse(page.read().decode())


def parse(page: str) -> dict[str, float]:
    """The counts on a page; 0 where it has none yet."""
    counts = {_CANCELLED: 0.0, _TOKENS_AFTER: 0.0}
    for name, value in _SAMPLE.findall(page):
        counts[name] += float(value)
    return {"cancelled": counts[_CANCELLED], "tokens_after": counts[_TOKENS_AFTER]}


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What came between two readings."""
    return {name: after[name] - before[name] for name in before}
