"""Latencies as HDR histograms, which merge across processes without loss and keep three significant digits.

Locust's own percentiles are rounded to 10 ms above 100 ms, so a bound at 200 ms cannot be checked with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hdrh.histogram import HdrHistogram

from keyahead.loadtest.figures import is_eligible
from keyahead.loadtest.judge import Outcome, Record

HIGHEST_US = 120_000_000
"""Two minutes: above any time-out here."""
DIGITS = 3


def histogram() -> HdrHistogram:
    """An empty one, of microseconds."""
    return HdrHistogram(1, HIGHEST_US, DIGITS)


def collect(records: Iterable[Record]) -> dict[str, HdrHistogram]:
    """The histograms of a run.

    `intended_to_done` is the promise's, of eligible requests; `sent_to_done` is the system's part of it, of answered ones; `lateness` is
    the generator's part, of all; `stage.…` is where the system says that its time went, of answered ones that ran the stage.
    """
    found = {name: histogram() for name in ("intended_to_done", "sent_to_done", "lateness")}
    for record in records:
        _add(found["lateness"], record.sent_s - record.at_s)
        if is_eligible(record):
            _add(found["intended_to_done"], record.latency_s)
        if record.outcome is Outcome.ANSWERED:
            _add(found["sent_to_done"], record.done_s - record.sent_s)
            for stage, milliseconds in record.stages_ms.items():
                if milliseconds > 0:
                    _add(found.setdefault(f"stage.{stage}", histogram()), milliseconds / 1000)
    return found


def _add(into: HdrHistogram, seconds: float) -> None:
    into.record_value(min(HIGHEST_US, max(1, round(seconds * 1_000_000))))


def encode(histograms: Mapping[str, HdrHistogram]) -> dict[str, str]:
    """As text, in HdrHistogram's V2 format, which its other languages read."""
    return {name: each.encode().decode() for name, each in histograms.items()}


def merge(parts: Iterable[Mapping[str, str]]) -> dict[str, HdrHistogram]:
    """The sum of encoded histograms of several processes."""
    merged: dict[str, HdrHistogram] = {}
    for part in parts:
        for name, encoded in part.items():
            merged.setdefault(name, histogram()).decode_and_add(encoded.encode())
    return merged


def percentiles_ms(of: HdrHistogram) -> dict[str, float | int]:
    """Count, mean and the usual percentiles, in milliseconds."""
    percents = (50, 90, 95, 99, 99.9)
    values = {f"p{percent:g}": of.get_value_at_percentile(percent) / 1000 for percent in percents}
    return {"count": of.get_total_count(), "mean": of.get_mean_value() / 1000, **values}
