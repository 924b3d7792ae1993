"""What the engine's Prometheus page says about cancels and drafts while a run goes on."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping

_TIMEOUT_S = 5.0
_COUNTS = {
    "cancelled": ("keyahead_engine_cancelled_total", ""),
    "tokens_after": ("keyahead_engine_tokens_after_cancel_total", ""),
    "drafted": ("keyahead_engine_tokens_total", 'kind="draft"'),
    "accepted": ("keyahead_engine_tokens_total", 'kind="accepted_draft"'),
}
"""What is read: requests cancelled, tokens computed for them afterwards, draft tokens verified, and those that the model agreed with."""
_SAMPLE = re.compile(r"^(keyahead_engine_\w+)(?:\{([^}]*)\})? ([0-9.e+]+)$", re.MULTILINE)

Counts = Mapping[str, float]


class EnginePage:
    """The page, and how its counts have grown since it was first read."""

    def __init__(self, url: str) -> None:
        """Reads it. Raises OSError, and ValueError if that is no URL."""
        self._url = url
        self._first = _read(url)
        self.at_s: list[float] = []
        self.grown: list[Counts] = []

    def look(self, now_s: float) -> None:
        """Reads it again, at a moment of the run; one that cannot be read then is left out."""
        try:
            counts = _read(self._url)
        except OSError:
            return
        self.at_s.append(now_s)
        self.grown.append({name: counts[name] - self._first[name] for name in counts})

    @property
    def cancels(self) -> Counts | None:
        """Requests cancelled and tokens computed after that, in all; None if the page was never read again."""
        return {name: self.grown[-1][name] for name in ("cancelled", "tokens_after")} if self.grown else None

    def to_json(self) -> dict[str, list[float]]:
        """A list of moments, and one of growth until then for each count."""
        return {"at_s": self.at_s, **{name: [counts[name] for counts in self.grown] for name in _COUNTS}}


def _read(url: str) -> Counts:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as page:  # noqa: S310  # the operator's own address
        return parse(page.read().decode())


def parse(page: str) -> Counts:
    """The counts on a page, labels added up; 0 where it has none yet."""
    counts = dict.fromkeys(_COUNTS, 0.0)
    for family, labels, value in _SAMPLE.findall(page):
        for name, (wanted, label) in _COUNTS.items():
            if family == wanted and label in labels:
                counts[name] += float(value)
    return counts
