"""Unary callers' reports: each answer with text once, and only its own tenant's."""

from __future__ import annotations

import pytest

from keyahead.service.model import Answer, FinishReason, OutcomeKind, Query, Source, Timings
from keyahead.service.reports import MAX_ANSWERS, Reports

QUERY = Query("", "", tenant="acme", session_id="s1", request_id="r1")


def answer(text: str = "return") -> Answer:
    """An answer that took 80 ms."""
    return Answer(text, FinishReason.STOP, Source.REDIS, 0, 2, Timings(total=80.0))


@pytest.mark.parametrize(
    ("kind", "given", "counted"),
    [
        (OutcomeKind.ACCEPTED, 0, 6),
        (OutcomeKind.PARTIAL, 4, 4),
        (OutcomeKind.PARTIAL, 99, 6),
        (OutcomeKind.REJECTED, 4, 0),
        (OutcomeKind.WITHDRAWN, 4, 0),
    ],
)
def test_a_report_has_what_is_known_of_the_answer(kind: OutcomeKind, given: int, counted: int) -> None:
    """Accepted characters are those of the suggestion at most."""
    reports = Reports()
    reports.remember(QUERY, answer())
    outcome = reports.take("acme", "r1", kind, given)
    assert outcome is not None
    assert (outcome.kind, outcome.accepted_chars, outcome.shown_chars) == (kind, counted, 6)
    assert (outcome.request_id, outcome.session_id, outcome.source, outcome.latency_ms) == ("r1", "s1", Source.REDIS, 80)


def test_only_what_its_tenant_was_shown_is_known_and_once() -> None:
    """An empty answer was not shown."""
    reports = Reports()
    reports.remember(QUERY, answer())
    assert reports.take("beta", "r1", OutcomeKind.ACCEPTED, 0) is None
    assert reports.take("acme", "r1", OutcomeKind.ACCEPTED, 0) is not None
    assert reports.take("acme", "r1", OutcomeKind.ACCEPTED, 0) is None
    reports.remember(QUERY, answer(""))
    assert reports.take("acme", "r1", OutcomeKind.REJECTED, 0) is None


def test_the_oldest_answers_are_forgotten() -> None:
    """As many are remembered as there is room for."""
    reports = Reports()
    for number in range(MAX_ANSWERS + 1):
        reports.remember(QUERY._replace(request_id=f"r{number}"), answer())
    assert reports.take("acme", "r0", OutcomeKind.ACCEPTED, 0) is None
    assert reports.take("acme", "r1", OutcomeKind.ACCEPTED, 0) is not None
