"""What a run's generators say, put together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest import columns, histograms
from keyahead.loadtest.judge import Outcome, Record, Typed
from keyahead.loadtest.run import seconds
from keyahead.loadtest.shape import Shape
from tests.loadtest.results import latencies, result

TIMES = st.floats(0, 100).map(lambda value: round(value, 6))
RECORDS = st.builds(
    Record,
    st.integers(0, 9),
    st.integers(0, 99),
    TIMES,
    TIMES,
    TIMES,
    st.sampled_from(Outcome),
    st.booleans(),
    st.sampled_from(["engine", "memory"]),
    st.integers(0, 99),
    st.integers(0, 99),
    st.booleans(),
    st.dictionaries(st.sampled_from(["cache", "decode"]), st.floats(0.001, 99).map(lambda value: round(value, 3)), max_size=2),
)


@given(st.lists(RECORDS, max_size=5), st.lists(st.builds(Typed, TIMES, st.booleans(), st.booleans(), st.booleans()), max_size=5))
def test_columns_keep_everything(records: list[Record], typed: list[Typed]) -> None:
    """What a result file holds gives the records and keys again, to the microsecond."""
    assert columns.to_records(columns.from_records(records)) == records
    assert columns.to_typed(columns.from_typed(typed)) == typed


def test_merged_histograms_are_those_of_all_records() -> None:
    """Two processes' histograms add up to that of all their records."""
    values = [Record(0, n, 0.0, 0.001, 0.01 * n, Outcome.ANSWERED, False) for n in range(1, 41)]
    parts = [histograms.encode(histograms.collect(values[:15])), histograms.encode(histograms.collect(values[15:]))]
    merged = histograms.percentiles_ms(histograms.merge(parts)["intended_to_done"])
    assert merged == histograms.percentiles_ms(histograms.collect(values)["intended_to_done"])
    assert merged["count"] == 40
    assert abs(merged["p50"] - 200) < 1


def test_a_result_adds_up() -> None:
    """Phases and seconds hold each request once, and the histogram's percentiles are those of the figures."""
    run = result(latencies(1000, 1), shape=Shape.SOAK)
    assert sum(phase["figures"]["asked"] for phase in run["phases"]) == sum(run["seconds"]["asked"]) == run["figures"]["asked"] == 1000
    assert sum(run["seconds"]["useful_characters"]) == run["figures"]["useful_characters"]
    assert len(run["seconds"]["p50_ms"]) == 100
    assert abs(run["percentiles_ms"]["intended_to_done"]["p99"] - run["figures"]["latency_ms"]["p99"]) < 0.5


def test_seconds_hold_what_comes_at_the_end() -> None:
    """A key of the very last moment belongs to the last second."""
    series = seconds([Record(0, 0, 2.5, 2.5, 2.6, Outcome.ANSWERED, False, "memory")], [Typed(2.5, True, True, False)], 2.5)
    assert (series["asked"], series["useful_characters"], series["sources"]) == ([0, 0, 1], [0, 0, 1], {"memory": [0, 0, 1]})
