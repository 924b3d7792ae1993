"""What a report shows, as numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.config import Kind, Target
from keyahead.loadtest.cost import Prices, Usage, cost
from keyahead.loadtest.figures import summarize
from keyahead.loadtest.judge import Outcome, Record
from keyahead.loadtest.report_data import READY, ReportError, answered_within, drafts, gather, sources, stages
from keyahead.loadtest.shape import Shape
from tests.loadtest.results import latencies, result, whole

DURATION_S = 90.0


@st.composite
def records(draw: st.DrawFn) -> Record:
    """A question of the run, and what became of it."""
    at_s, late_s, took_s = draw(st.floats(0, DURATION_S)), draw(st.floats(0, 0.02)), draw(st.floats(0.05, 0.9))
    outcome, source = draw(st.sampled_from(Outcome)), draw(st.sampled_from(["kept", "memory", "engine", "elsewhere"]))
    spent = {"cache": draw(st.floats(0, 1)), "decode": draw(st.floats(0, 40)), "total": 45.0}
    return Record(0, 0, at_s, at_s + late_s, at_s + late_s + took_s, outcome, draw(st.booleans()), source, stages_ms=spent)


@given(st.lists(records(), max_size=40))
def test_the_curve_at_200_ms_is_what_the_verdict_is_about(made: list[Record]) -> None:
    """The share answered by then is one less the share of slow requests, and the curve never falls."""
    figures = summarize(made, [], DURATION_S)
    curve = answered_within(made)
    assert curve == sorted(curve)
    by_then = max((share for milliseconds, share in curve if milliseconds <= 200), default=0.0)
    if figures["eligible"]:
        assert by_then == pytest.approx(1 - figures["slow"] / figures["eligible"])


def test_a_long_run_has_a_short_curve_from_end_to_end() -> None:
    """The quickest and the slowest answer are on it."""
    made = [Record(0, n, 0.0, 0.0, 0.001 * n, Outcome.ANSWERED, False) for n in range(1, 5001)]
    curve = answered_within(made)
    assert len(curve) < 400
    assert (curve[0][0], curve[-1]) == (1.0, (5000.0, 1.0))


@given(st.lists(records(), min_size=1, max_size=20))
def test_stages_add_up_to_the_latency(made: list[Record]) -> None:
    """Their means, each beginning where the one before ends, are the mean latency of the answers to keys."""
    answers = [record.latency_s * 1000 for record in made if record.outcome is Outcome.ANSWERED and not record.follow_up]
    found = stages(made)
    assert bool(found) == bool(answers)
    if answers:
        assert found[-1].before_ms + found[-1].mean_ms == pytest.approx(sum(answers) / len(answers))
        assert found[-1].before_ms == pytest.approx(sum(stage.mean_ms for stage in found[:-1]))


def test_a_system_that_does_not_tell_has_no_stages() -> None:
    """As with every baseline."""
    assert stages([Record(0, 0, 0.0, 0.0, 0.1, Outcome.ANSWERED, False)]) == []


@given(st.lists(records(), max_size=40))
def test_sources_hold_each_answer_once(made: list[Record]) -> None:
    """They are those of the figures, and those ready are what the screen and the caches had."""
    found = sources(made, DURATION_S)
    counted = summarize(made, [], DURATION_S)["sources"]
    assert found.totals == counted
    assert len(found.counts) * found.bucket_s >= DURATION_S
    if counted:
        assert found.ready_share == sum(counted.get(name, 0) for name in READY) / sum(counted.values())


def test_results_stand_side_by_side() -> None:
    """A ramp adds the capacity wherever it stands, others of the same keys their systems; who is simulated is called so."""
    chat = Target(Kind.CHAT, "http://127.0.0.1:1", "chat", simulated=True)
    own, rival = result(latencies(300, 1)), result(latencies(300, 2, 9), target=chat)
    ramp = whole(result(latencies(300, 3), shape=Shape.RAMP, typists=3), capacity=2)
    later = {**whole(own), "started_at": "2026-12-01T08:00:00+00:00"}
    runs = gather([whole(own, rival), ramp, later])
    assert [each.name for each in runs.systems] == ["keyahead", "simulated chat", "keyahead, 1 Dec, 08:00:00"]
    assert runs.ramp
    assert (runs.ramp.capacity, [point.typists for point in runs.ramp.points]) == (2, [1, 2, 3])
    assert len(gather([ramp]).systems) == 1
    assert gather([whole(own)]).ramp is None


def test_costs_are_of_the_capacity_that_the_page_shows() -> None:
    """Prices of one result and a ramp without any: the ramp's capacity is taken."""
    priced = whole(result(latencies(300, 1)), cost=cost(Prices(0.25, 2.0, 0.2, 60.0), Usage(900, 12, 2500, 4)))
    ramp = whole(result(latencies(300, 3), shape=Shape.RAMP, typists=3), capacity=2)
    alone, beside = gather([priced]).cost, gather([priced, ramp]).cost
    assert alone
    assert beside
    assert (alone["usage"]["capacity"], beside["usage"]["capacity"]) == (4, 2)
    assert beside["server_per_developer_month"] == 2 * alone["server_per_developer_month"]


def test_other_keys_are_refused() -> None:
    """Two runs with different keys would be compared for what they typed."""
    with pytest.raises(ReportError, match="Result 2 has other keys"):
        gather([whole(result(latencies(100, 1))), whole(result(latencies(100, 1), seed=1))])


def test_the_ready_share_of_nothing_is_unknown() -> None:
    """Not 0, which would be a bad one."""
    failed = replace(Record(0, 0, 0.0, 0.0, 0.1, Outcome.FAILED, False), detail="UNAVAILABLE")
    assert sources([failed], DURATION_S).ready_share is None


@given(st.lists(st.tuples(st.floats(0.5, 2), st.integers(0, 40), st.integers(0, 20)), min_size=1, max_size=200), st.floats(10, 900))
def test_all_drafts_are_in_some_bucket(steps: list[tuple[float, int, int]], duration_s: float) -> None:
    """However often the engine's page was read, and after the run's end, too; right and wrong ones add up to what the engine counted."""
    engine: dict[str, list[float]] = {"at_s": [], "drafted": [], "accepted": []}
    at_s, right, wrong = 0.0, 0, 0
    for step_s, more_right, more_wrong in steps:
        at_s, right, wrong = at_s + step_s, right + more_right, wrong + more_wrong
        for name, value in (("at_s", at_s), ("drafted", right + wrong), ("accepted", right)):
            engine[name].append(value)
    found = drafts(engine, duration_s)
    assert found is not None
    assert (sum(found.right), sum(found.wrong)) == (right, wrong)
    assert len(found.right) * found.bucket_s >= duration_s
    assert min(*found.right, *found.wrong, 0) == 0
    assert found.right_share == (right / (right + wrong) if right + wrong else None)


def test_drafts_of_an_engine_that_was_not_asked_are_unknown() -> None:
    """Which is not the same as none."""
    assert drafts(None, 60) is None
    assert drafts({"at_s": [], "drafted": [], "accepted": []}, 60) is None
