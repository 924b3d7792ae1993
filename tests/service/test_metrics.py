"""Metrics are exported over HTTP, with few labels and an exact boundary at the objective."""

from __future__ import annotations

import asyncio
import time

import pytest

from keyahead.service.metrics import LAG_TICK_S, LATENCY_BUCKETS, QUEUE, STAGES, Metrics
from keyahead.service.model import Answer, FinishReason, Outcome, OutcomeKind, Source, Timings

ANSWER = Answer("text", FinishReason.STOP, Source.ENGINE, 100, 7, Timings(decode=150, total=200))


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """One sample, 0 when there is none."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_a_call_at_the_objective_counts_as_on_time() -> None:
    """200 ms is a boundary of its own, and it is inclusive."""
    metrics = Metrics()
    assert 0.2 in LATENCY_BUCKETS
    for seconds in (0.2, 0.2001):
        metrics.requests.labels("Complete", "ok", "engine", "automatic").observe(seconds)
    labels = {"method": "Complete", "outcome": "ok", "source": "engine", "trigger": "automatic"}
    assert value(metrics, "keyahead_request_seconds_bucket", le="0.2", **labels) == 1
    assert value(metrics, "keyahead_request_seconds_count", **labels) == 2


def test_the_first_failure_is_an_increase() -> None:
    """Prometheus takes no notice of a series that begins at 1, so those that count against the objective begin at 0."""
    metrics = Metrics()
    for outcome in ("cancelled", "aborted", "deadline_exceeded", "internal", "unavailable", "resource_exhausted"):
        for trigger in ("automatic", "unknown"):
            labels = {"method": "Complete", "outcome": outcome, "source": "none", "trigger": trigger}
            assert metrics.registry.get_sample_value("keyahead_request_seconds_count", labels) == 0


def test_an_answer_counts_its_tokens_and_the_stages_it_ran() -> None:
    """Milliseconds become seconds; a stage that was not run leaves no sample."""
    metrics = Metrics()
    metrics.answered(ANSWER)
    assert value(metrics, "keyahead_stage_seconds_sum", stage="decode") == 0.15
    assert value(metrics, "keyahead_stage_seconds_count", stage="cache") == 0
    assert value(metrics, "keyahead_tokens_total", kind="prompt") == 100
    assert value(metrics, "keyahead_tokens_total", kind="completion") == 7


def test_a_tally_is_told_as_a_counter() -> None:
    """Each value of its labels is a series; what is counted meanwhile is told the next time."""
    metrics = Metrics()
    metrics.cache.counts["memory", "exact"] += 2
    metrics.cache.counts["all", "miss"] += 1
    assert value(metrics, "keyahead_cache_lookups_total", tier="memory", outcome="exact") == 2
    metrics.cache.counts["memory", "exact"] += 1
    assert value(metrics, "keyahead_cache_lookups_total", tier="memory", outcome="exact") == 3
    assert value(metrics, "keyahead_cache_lookups_total", tier="all", outcome="miss") == 1


def test_every_family_is_ours_or_the_process_s_and_none_is_labelled_by_who_or_what() -> None:
    """Labels have few values: nothing of a tenant, a session or a text."""
    metrics = Metrics("model", "0123456789ab")
    families = {each.name: each for each in metrics.registry.collect()}
    assert {name for name in families if not name.startswith("process_")} == {
        "keyahead_request_seconds",
        "keyahead_stage_seconds",
        "keyahead_cache_lookups",
        "keyahead_admission",
        "keyahead_drafts_proposed",
        "keyahead_drafts_accepted",
        "keyahead_cancels",
        "keyahead_superseded",
        "keyahead_tokens",
        "keyahead_outcomes",
        "keyahead_suggested_chars",
        "keyahead_sessions",
        "keyahead_requests_in_flight",
        "keyahead_event_loop_lag_seconds",
        "keyahead_engine_up",
        "keyahead_build",
    }
    metrics.answered(ANSWER)
    seen = {label for each in metrics.registry.collect() for sample in each.samples for label in sample.labels}
    assert seen == {"method", "outcome", "source", "trigger", "stage", "kind", "le", "version", "model", "model_version"}
    stages = {sample.labels["stage"] for each in metrics.registry.collect() for sample in each.samples if "stage" in sample.labels}
    assert stages == {*STAGES, QUEUE}


def test_an_outcome_is_counted_with_its_characters() -> None:
    """By kind and by where the suggestion came from."""
    metrics = Metrics()
    metrics.settled(Outcome(OutcomeKind.PARTIAL, "r1", "s1", 12, 5, Source.REDIS, 3.0))
    assert value(metrics, "keyahead_outcomes_total", kind="partial", source="redis") == 1
    assert value(metrics, "keyahead_suggested_chars_total", kind="shown") == 12
    assert value(metrics, "keyahead_suggested_chars_total", kind="accepted") == 5


def test_two_services_in_a_process_do_not_share_metrics() -> None:
    """Nothing is registered globally."""
    first, second = Metrics(), Metrics()
    first.superseded.inc()
    assert value(second, "keyahead_superseded_total") == 0


@pytest.mark.asyncio(loop_scope="session")
async def test_a_blocked_event_loop_shows_as_lag() -> None:
    """The ticker sees how long the loop was held."""
    metrics = Metrics()
    task = asyncio.create_task(metrics.watch_loop())
    await asyncio.sleep(0.03)
    time.sleep(LAG_TICK_S + 0.15)  # noqa: ASYNC251  # that is the point
    await asyncio.sleep(0.03)
    task.cancel()
    assert value(metrics, "keyahead_event_loop_lag_seconds_sum") > 0.1
