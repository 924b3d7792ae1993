"""Every way a call can fail, and the gRPC status with rich details that a plugin author sees.

Messages are fixed sentences: text of a request, an answer or a foreign exception never enters a status.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from keyahead.service.model import EngineUnavailable, Overloaded, Superseded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

DOMAIN = "keyahead"
"""`google.rpc.ErrorInfo.domain` of every error of this service."""

MAX_VIOLATIONS = 16
"""Violations listed in one status. Details travel as metadata, of which a client accepts 8 KiB by default (gRPC's soft limit)."""

ENGINE_RETRY_S = 1.0
"""Retry hint while the engine is away: its supervisor sees a death and restarts it within about a second."""

REROUTE_RETRY_S = 0.1
"""Retry hint when only this call or this replica is affected."""


class Reason(enum.StrEnum):
    """Stable reasons for programs to branch on (`google.rpc.ErrorInfo.reason`)."""

    INVALID_REQUEST = "INVALID_REQUEST"
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    SUPERSEDED = "SUPERSEDED"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    OVERLOADED = "OVERLOADED"
    DRAINING = "DRAINING"
    DEADLINE_MISSED = "DEADLINE_MISSED"
    INTERRUPTED = "INTERRUPTED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that breaks its limit."""

    field: str
    """Path in the request, such as `document.whole.line`."""
    description: str
    """What is wrong and the cure; never quotes the field's value."""


class InvalidRequest(Exception):
    """The request breaks limits of the API; lists every violation found (INVALID_ARGUMENT)."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{each.field}: {each.description}" for each in violations))
        self.violations = tuple(violations)


class MalformedMessage(Exception):
    """The bytes received are not a message of the method's type (INVALID_ARGUMENT)."""


class Unauthenticated(Exception):
    """The call carries no token that this server knows (UNAUTHENTICATED)."""


class Draining(Exception):
    """The server is shutting down and takes no new calls (UNAVAILABLE)."""


class DeadlineMissed(Exception):
    """No answer at all, not even a partial one, by the call's deadline (DEADLINE_EXCEEDED)."""


class Interrupted(Exception):
    """Shared work this call waited for was cancelled by somebody else (UNAVAILABLE)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a failed call tells its client."""

    code: grpc.StatusCode
    reason: Reason
    message: str
    retry_after_s: float | None = None
    violations: tuple[Violation, ...] = ()
    error_id: str = ""
    """Names the server's log entry, for INTERNAL only."""


_FIXED: dict[type[Exception], Problem] = {
    MalformedMessage: Problem(
        grpc.StatusCode.INVALID_ARGUMENT,
        Reason.MALFORMED_MESSAGE,
        "the message cannot be decoded; send this method's request type, with strings in UTF-8",
    ),
    Unauthenticated: Problem(
        grpc.StatusCode.UNAUTHENTICATED,
        Reason.UNAUTHENTICATED,
        "send the metadata 'authorization: Bearer TOKEN' with a token known to this server",
    ),
    Superseded: Problem(grpc.StatusCode.ABORTED, Reason.SUPERSEDED, "a newer request of this session took this one's place"),
    EngineUnavailable: Problem(
        grpc.StatusCode.UNAVAILABLE, Reason.ENGINE_UNAVAILABLE, "the engine is not reachable; try again soon", ENGINE_RETRY_S
    ),
    Draining: Problem(
        grpc.StatusCode.UNAVAILABLE, Reason.DRAINING, "this server is shutting down; try again, on another replica", REROUTE_RETRY_S
    ),
    DeadlineMissed: Problem(grpc.StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE_MISSED, "nothing was decoded before the deadline"),
    Interrupted: Problem(
        grpc.StatusCode.UNAVAILABLE, Reason.INTERRUPTED, "the work this call waited for was cancelled; try again", REROUTE_RETRY_S
    ),
}


def problem_of(error: Exception, error_id: str = "") -> Problem:
    """What to tell the client about an exception; an unexpected one becomes INTERNAL with this id."""
    if isinstance(error, InvalidRequest):
        return Problem(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST, _summary(error.violations), violations=error.violations)
    if isinstance(error, Overloaded):
        # The reason is a sentence of our own admission code, never of a request.
        return Problem(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.OVERLOADED, str(error), error.retry_after_s)
    for kind, problem in _FIXED.items():
        if isinstance(error, kind):
            return problem
    return Problem(grpc.StatusCode.INTERNAL, Reason.INTERNAL, f"internal error {error_id}: see the server's log", error_id=error_id)


def to_status(problem: Problem) -> grpc.Status:
    """The gRPC status with its `google.rpc` details: always ErrorInfo; BadRequest and RetryInfo where they apply."""
    info = error_details_pb2.ErrorInfo(reason=problem.reason.value, domain=DOMAIN)
    if problem.error_id:
        info.metadata["error_id"] = problem.error_id
    details: list[Message] = [info]
    if problem.violations:
        shown = problem.violations[:MAX_VIOLATIONS]
        violation = error_details_pb2.BadRequest.FieldViolation
        details.append(
            error_details_pb2.BadRequest(field_violations=[violation(field=each.field, description=each.description) for each in shown])
        )
    if problem.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(max(0, round(problem.retry_after_s * 1000)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=problem.code.value[0], message=problem.message)
    for detail in details:
        status.details.add().Pack(detail)
    return rpc_status.to_status(status)


def _summary(violations: Sequence[Violation]) -> str:
    first = f"{violations[0].field}: {violations[0].description}"
    return first if len(violations) == 1 else f"{first} (and {len(violations) - 1} more)"
