"""What records come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.figures import is_eligible, percentile, summarize
from keyahead.loadtest.judge import Outcome, Record, Typed


def record(latency_s: float, outcome: Outcome = Outcome.ANSWERED, *, follow_up: bool = False, detail: str = "engine") -> Record:
    """A question asked at second 1."""
    return Record(0, 0, 1.0, 1.0, 1.0 + latency_s, outcome, follow_up, detail, before_next_key=outcome is Outcome.ANSWERED, characters=3)


@pytest.mark.parametrize(
    ("what", "eligible", "good"),
    [
        (record(0.19), True, True),
        (record(0.21), True, False),
        (record(0.1, Outcome.FAILED), True, False),
        (record(0.1, Outcome.SUPERSEDED), False, False),
        (record(0.3, Outcome.SUPERSEDED), True, False),
        (record(0.1, Outcome.UNANSWERED), False, False),
        (record(0.3, Outcome.UNANSWERED), True, False),
        (record(0.3, follow_up=True), False, False),
    ],
)
def test_the_rule_of_who_counts(what: Record, eligible: bool, good: bool) -> None:
    """Superseded within the promise is neither good nor bad; after it, it is bad; a failure is bad however quick."""
    assert is_eligible(what) is eligible
    figures = summarize([what], [], 1)
    assert (figures["eligible"], figures["eligible"] - figures["slow"]) == (eligible, eligible and good)


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 100))
def test_percentiles_are_values_that_occurred(values: list[float], percent: float) -> None:
    """So many percent are not above it, and it is the smallest such value."""
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100
    assert sum(value < found for value in values) < max(len(values) * percent / 100, 1)


def test_the_summary_adds_up() -> None:
    """Counts by outcome, source and error, and characters by what they were worth."""
    records = [record(0.1), record(0.3), record(0.1, Outcome.FAILED, detail="UNAVAILABLE"), record(0.05, follow_up=True)]
    typed = [Typed(1, True, True, False), Typed(2, False, True, False), Typed(3, False, False, False), Typed(4, True, True, True)]
    figures = summarize(records, typed, 30)
    assert (figures["asked"], figures["follow_ups"], figures["outcomes"]) == (3, 1, {"answered": 2, "failed": 1})
    assert (figures["errors"], figures["sources"]) == ({"UNAVAILABLE": 1}, {"engine": 2})
    assert (figures["eligible"], figures["slow"]) == (3, 2)
    assert figures["latency_ms"]["p50"] == pytest.approx(100)
    assert (figures["useful_share"], figures["predicted_characters"], figures["taken_characters"]) == (0.5, 3, 1)
    assert figures["useful_characters_per_minute"] == 4
