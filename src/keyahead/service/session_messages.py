"""The wire's session messages and the session's nouns. As in requests.py, all violations of a message are reported at once, by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service.documents import Change, Lost, Position
from keyahead.service.errors import InvalidRequest, Violation, problem_of
from keyahead.service.model import OutcomeKind
from keyahead.service.positions import utf8_bytes
from keyahead.service.requests import ENCODINGS, ENUM_RULE, ID, ID_RULE, MODES, TRIGGERS, Limits, to_query, to_response
from keyahead.service.session_model import (
    Ask,
    Close,
    Edit,
    Failure,
    Message,
    MoveCursor,
    Open,
    Pacing,
    Reply,
    Resync,
    Settle,
    Suggestion,
    Withdraw,
)

MAX_DOCUMENT_ID_BYTES: Final = 1024
MAX_CHANGES: Final = 256

_DOCUMENT_ID = re.compile(r"[^\x00-\x1f\x7f]+")
_RESYNC_REASONS = {
    Lost.NOT_OPEN: pb.RESYNC_REASON_NOT_OPEN,
    Lost.VERSION: pb.RESYNC_REASON_VERSION,
    Lost.POSITION: pb.RESYNC_REASON_POSITION,
    Lost.SIZE: pb.RESYNC_REASON_SIZE,
}
OUTCOME_KINDS: Final = {
    pb.OUTCOME_KIND_ACCEPTED: OutcomeKind.ACCEPTED,
    pb.OUTCOME_KIND_PARTIAL: OutcomeKind.PARTIAL,
    pb.OUTCOME_KIND_REJECTED: OutcomeKind.REJECTED,
    pb.OUTCOME_KIND_WITHDRAWN: OutcomeKind.WITHDRAWN,
}


def to_message(request: pb.SessionRequest, tenant: str, limits: Limits) -> Message:
    """What the client says. Raises InvalidRequest with every violation."""
    kind = request.WhichOneof("message")
    if kind is None:
        raise InvalidRequest([Violation("message", "is required: set one of the messages that this server knows")])
    message = getattr(request, kind)
    violations = [Violation(f"{kind}.{each.field}", each.description) for each in _check(message, limits)]
    if isinstance(message, pb.Open):
        return _open(message, violations, tenant, limits)
    if violations:
        raise InvalidRequest(violations)
    return _READERS[type(message)](message)


def to_reply(reply: Reply, model: pb.ModelInfo) -> pb.SessionResponse:
    """The message that carries a reply."""
    match reply:
        case Suggestion():
            suggestion = pb.Suggestion(
                document_id=reply.document_id,
                version=reply.version,
                completion=to_response(reply.answer, reply.request_id, model),
                suggested_debounce_ms=reply.debounce_ms,
            )
            return pb.SessionResponse(suggestion=suggestion)
        case Withdraw():
            return pb.SessionResponse(withdraw=pb.Withdraw(document_id=reply.document_id, request_id=reply.request_id))
        case Resync():
            resync = pb.Resync(document_id=reply.document_id, expected_version=reply.expected_version, reason=_RESYNC_REASONS[reply.reason])
            return pb.SessionResponse(resync=resync)
        case Pacing():
            return pb.SessionResponse(pacing=pb.Pacing(suggested_debounce_ms=reply.debounce_ms))
        case Failure():
            problem = problem_of(reply.error)
            failure = pb.Failure(
                document_id=reply.document_id,
                request_id=reply.request_id,
                reason=problem.reason.value,
                message=problem.message,
                retry_after_ms=round((problem.retry_after_s or 0) * 1000),
            )
            return pb.SessionResponse(failure=failure)


def to_report(request: pb.ReportRequest) -> tuple[str, OutcomeKind, int]:
    """What a unary caller tells: request id, kind and accepted characters. Raises InvalidRequest with every violation."""
    violations = [] if ID.fullmatch(request.request_id) else [Violation("request_id", ID_RULE)]
    if not request.request_id:
        violations.append(Violation("request_id", "is required: the one of the answer"))
    if request.kind not in OUTCOME_KINDS:
        violations.append(Violation("kind", "is required: set a kind that this server knows"))
    if violations:
        raise InvalidRequest(violations)
    return request.request_id, OUTCOME_KINDS[request.kind], request.accepted_chars


def _check(message: Any, limits: Limits) -> Iterator[Violation]:
    """What messages have in common, then what is an Edit's or a MoveCursor's own."""
    fields = message.DESCRIPTOR.fields_by_name
    if "document_id" in fields and not _is_document_id(message.document_id):
        yield Violation("document_id", f"must be 1 to {MAX_DOCUMENT_ID_BYTES} bytes without control characters")
    if "request_id" in fields and not ID.fullmatch(message.request_id):
        yield Violation("request_id", ID_RULE)
    if "mode" in fields and not isinstance(message, pb.Open) and message.mode not in MODES:
        yield Violation("mode", ENUM_RULE)
    if "trigger" in fields and message.trigger not in TRIGGERS:
        yield Violation("trigger", ENUM_RULE)
    if "encoding" in fields and message.encoding not in ENCODINGS:
        yield Violation("encoding", ENUM_RULE)
    if isinstance(message, pb.MoveCursor) and not message.HasField("cursor"):
        yield Violation("cursor", "is required")
    if isinstance(message, pb.Edit):
        yield from _check_changes(message, limits)


def _is_document_id(text: str) -> bool:
    return utf8_bytes(text) <= MAX_DOCUMENT_ID_BYTES and _DOCUMENT_ID.fullmatch(text) is not None


def _check_changes(edit: pb.Edit, limits: Limits) -> Iterator[Violation]:
    if len(edit.changes) > MAX_CHANGES:
        yield Violation("changes", f"has {len(edit.changes)} changes; send at most {MAX_CHANGES}, or Open with the whole text")
        return
    num_bytes = 0
    for index, change in enumerate(edit.changes):
        text = change.text
        num_bytes += utf8_bytes(text)
        if not (change.HasField("range") and change.range.HasField("start") and change.range.HasField("end")):
            yield Violation(f"changes[{index}].range", "is required, with start and end")
        if "\0" in text:
            yield Violation(f"changes[{index}].text", "contains a NUL character; only text files can be completed")
    if num_bytes > limits.document_bytes:
        yield Violation(
            "changes", f"have {num_bytes - limits.document_bytes} bytes over the limit of {limits.document_bytes} bytes of text"
        )


def _open(message: pb.Open, violations: list[Violation], tenant: str, limits: Limits) -> Open:
    request = pb.CompleteRequest(document=message.document, context=message.context, mode=message.mode, max_tokens=message.max_tokens)
    try:
        query = to_query(request, tenant, limits, "open.")
    except InvalidRequest as invalid:
        violations += invalid.violations
    if violations:
        raise InvalidRequest(violations)
    return Open(message.document_id, message.version, query, ENCODINGS[message.encoding], message.ask_on_edit)


def _edit(message: pb.Edit) -> Edit:
    changes = tuple(Change(_position(each.range.start), _position(each.range.end), each.text) for each in message.changes)
    cursor = _position(message.cursor) if message.HasField("cursor") else None
    return Edit(message.document_id, message.base_version, message.version, changes, cursor)


def _ask(message: pb.Ask) -> Ask:
    mode = MODES[message.mode] if message.mode else None
    return Ask(message.document_id, message.version, TRIGGERS[message.trigger], mode, message.request_id)


def _position(message: pb.Position) -> Position:
    return Position(message.line, message.character)


_READERS: Final[dict[type, Callable[[Any], Message]]] = {
    pb.Edit: _edit,
    pb.MoveCursor: lambda message: MoveCursor(message.document_id, message.version, _position(message.cursor)),
    pb.Ask: _ask,
    pb.Accept: lambda message: Settle(message.request_id, OutcomeKind.ACCEPTED),
    pb.PartialAccept: lambda message: Settle(message.request_id, OutcomeKind.PARTIAL, message.accepted_chars),
    pb.Reject: lambda message: Settle(message.request_id, OutcomeKind.REJECTED),
    pb.Close: lambda message: Close(message.document_id),
}
