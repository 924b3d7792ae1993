"""Every failure has one status, with details that a program can act on."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from keyahead.service.errors import (
    DOMAIN,
    MAX_VIOLATIONS,
    DeadlineMissed,
    Draining,
    Interrupted,
    InvalidRequest,
    MalformedMessage,
    Problem,
    Reason,
    Unauthenticated,
    Violation,
    problem_of,
    to_status,
)
from keyahead.service.model import EngineUnavailable, Overloaded, Superseded

CASES = [
    (InvalidRequest([Violation("mode", "is not known")]), "INVALID_ARGUMENT", Reason.INVALID_REQUEST),
    (MalformedMessage(), "INVALID_ARGUMENT", Reason.MALFORMED_MESSAGE),
    (Unauthenticated(), "UNAUTHENTICATED", Reason.UNAUTHENTICATED),
    (Superseded(), "ABORTED", Reason.SUPERSEDED),
    (EngineUnavailable("secret"), "UNAVAILABLE", Reason.ENGINE_UNAVAILABLE),
    (Overloaded("queue is full", 0.25), "RESOURCE_EXHAUSTED", Reason.OVERLOADED),
    (Draining(), "UNAVAILABLE", Reason.DRAINING),
    (DeadlineMissed(), "DEADLINE_EXCEEDED", Reason.DEADLINE_MISSED),
    (Interrupted(), "UNAVAILABLE", Reason.INTERRUPTED),
    (KeyError("secret"), "INTERNAL", Reason.INTERNAL),
]


def details(problem: Problem) -> dict[str, object]:
    """The status's details by message name, as a client unpacks them."""
    wire = dict(to_status(problem).trailing_metadata)["grpc-status-details-bin"]
    found = {}
    for packed in status_pb2.Status.FromString(wire).details:
        message = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        assert packed.Unpack(message)
        found[type(message).__name__] = message
    return found


@pytest.mark.parametrize(("error", "code", "reason"), CASES, ids=[each[2].value for each in CASES])
def test_each_failure_has_its_code_and_reason(error: Exception, code: str, reason: Reason) -> None:
    """Code, reason and domain are stable; whatever an exception quotes is not passed on."""
    problem = problem_of(error, "id-1")
    status = to_status(problem)
    info = details(problem)["ErrorInfo"]
    assert (status.code, info.reason, info.domain) == (grpc.StatusCode[code], reason.value, DOMAIN)  # type: ignore[attr-defined]
    assert "secret" not in status.details
    assert ("RetryInfo" in details(problem)) == (code in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"})


def test_every_reason_is_reached() -> None:
    """No reason is documented that no failure gives."""
    assert {each[2] for each in CASES} == set(Reason)


def test_an_overload_says_when_to_come_back() -> None:
    """The retry delay is the admission's own estimate."""
    delay = details(problem_of(Overloaded("queue is full", 0.25)))["RetryInfo"].retry_delay  # type: ignore[attr-defined]
    assert delay.ToMilliseconds() == 250


def test_an_internal_error_carries_the_log_s_error_id() -> None:
    """A plugin author's report leads to the log entry, by message and by metadata."""
    problem = problem_of(ValueError("secret"), "id-1")
    assert details(problem)["ErrorInfo"].metadata["error_id"] == "id-1"  # type: ignore[attr-defined]
    assert "id-1" in problem.message


def test_violations_are_listed_by_field() -> None:
    """BadRequest carries the path and the cure of each."""
    problem = problem_of(InvalidRequest([Violation("mode", "is not known"), Violation("max_tokens", "must be at most 256")]))
    listed = details(problem)["BadRequest"].field_violations  # type: ignore[attr-defined]
    assert [(each.field, each.description) for each in listed] == [("mode", "is not known"), ("max_tokens", "must be at most 256")]
    assert problem.message == "mode: is not known (and 1 more)"


def test_a_status_fits_a_client_s_metadata_limit() -> None:
    """Very many violations are cut short: gRPC clients accept 8 KiB of metadata by default."""
    problem = problem_of(InvalidRequest([Violation(f"context[{each}].path", "x" * 150) for each in range(1000)]))
    assert len(details(problem)["BadRequest"].field_violations) == MAX_VIOLATIONS  # type: ignore[attr-defined]
    assert sum(len(value) for _, value in to_status(problem).trailing_metadata) < 8192
