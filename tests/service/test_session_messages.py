"""A session's messages become what the machine understands, or a list of everything that is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service.documents import Change, Lost, Position
from keyahead.service.errors import InvalidRequest
from keyahead.service.model import Answer, ContextFile, FinishReason, Mode, OutcomeKind, Overloaded, Query, Source, Trigger
from keyahead.service.positions import Encoding
from keyahead.service.requests import Limits
from keyahead.service.session_messages import MAX_CHANGES, OUTCOME_KINDS, to_message, to_reply, to_report
from keyahead.service.session_model import (
    Ask,
    Close,
    Edit,
    Failure,
    Message,
    MoveCursor,
    Open,
    Pacing,
    Resync,
    Settle,
    Suggestion,
    Withdraw,
)

LIMITS = Limits(document_bytes=100, context_bytes=20, context_files=2)
ZERO = pb.Position()
RANGE = pb.Range(start=ZERO, end=pb.Position(line=1, character=2))
DOCUMENT = pb.Document(path="a.py", split=pb.SplitText(prefix="a", suffix="b"))


def message(**fields: Any) -> Message:
    """The meaning of a message with one field."""
    return to_message(pb.SessionRequest(**fields), "acme", LIMITS)


def violations(**fields: Any) -> set[str]:
    """The fields that are wrong."""
    with pytest.raises(InvalidRequest) as caught:
        message(**fields)
    return {each.field for each in caught.value.violations}


def test_every_message_is_understood() -> None:
    """Field by field; what is unset has the default that the proto names."""
    opened = pb.Open(document_id="file:///a.py", version=3, document=DOCUMENT, context=[pb.ContextFile(path="b", text="c")], max_tokens=9)
    query = Query("a", "b", "a.py", context=(ContextFile("b", "c"),), tenant="acme", max_tokens=9)
    found = message(open=opened)
    assert isinstance(found, Open)
    assert found.query.request_id
    assert (found.query.prefix, found.query.suffix, found.query.context) == (query.prefix, query.suffix, query.context)
    assert (found.query.tenant, found.query.max_tokens, found.query.mode) == ("acme", 9, Mode.AUTO)
    assert (found.document_id, found.version, found.encoding, found.ask_on_edit) == ("file:///a.py", 3, Encoding.UTF16, False)
    change = Change(Position(0, 0), Position(1, 2), "x")
    edit = pb.Edit(document_id="d", base_version=1, version=2, changes=[pb.Change(range=RANGE, text="x")])
    assert message(edit=edit) == Edit("d", 1, 2, (change,))
    edit.cursor.CopyFrom(pb.Position(line=4))
    assert message(edit=edit) == Edit("d", 1, 2, (change,), Position(4, 0))
    assert message(move_cursor=pb.MoveCursor(document_id="d", version=1, cursor=ZERO)) == MoveCursor("d", 1, Position(0, 0))
    assert message(ask=pb.Ask(document_id="d", version=1)) == Ask("d", 1, Trigger.AUTOMATIC, None, "")
    ask = pb.Ask(document_id="d", version=1, trigger=pb.TRIGGER_MANUAL, mode=pb.MODE_BLOCK, request_id="r")
    assert message(ask=ask) == Ask("d", 1, Trigger.MANUAL, Mode.BLOCK, "r")
    assert message(accept=pb.Accept(request_id="r")) == Settle("r", OutcomeKind.ACCEPTED)
    assert message(partial_accept=pb.PartialAccept(request_id="r", accepted_chars=2)) == Settle("r", OutcomeKind.PARTIAL, 2)
    assert message(reject=pb.Reject(request_id="r")) == Settle("r", OutcomeKind.REJECTED)
    assert message(close=pb.Close(document_id="d")) == Close("d")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"message"}),
        ({"open": pb.Open()}, {"open.document_id", "open.document"}),
        (
            {"open": pb.Open(document_id="d", document=DOCUMENT, encoding=9, mode=9, max_tokens=257)},  # type: ignore[arg-type]
            {"open.encoding", "open.mode", "open.max_tokens"},
        ),
        (
            {"open": pb.Open(document_id="d", document=pb.Document(split=pb.SplitText(prefix="x" * 101)))},
            {"open.document.split"},
        ),
        ({"close": pb.Close(document_id="a\nb")}, {"close.document_id"}),
        ({"close": pb.Close(document_id="é" * 513)}, {"close.document_id"}),
        ({"ask": pb.Ask(document_id="d", trigger=9, mode=9, request_id="a b")}, {"ask.trigger", "ask.mode", "ask.request_id"}),  # type: ignore[arg-type]
        ({"move_cursor": pb.MoveCursor(document_id="d")}, {"move_cursor.cursor"}),
        ({"accept": pb.Accept(request_id="a b")}, {"accept.request_id"}),
        (
            {"edit": pb.Edit(document_id="d", changes=[pb.Change(text="\0"), pb.Change(range=pb.Range(start=ZERO))])},
            {"edit.changes[0].range", "edit.changes[0].text", "edit.changes[1].range"},
        ),
        ({"edit": pb.Edit(document_id="d", changes=[pb.Change(range=RANGE, text="x" * 51)] * 2)}, {"edit.changes"}),
        ({"edit": pb.Edit(document_id="d", changes=[pb.Change(range=RANGE)] * (MAX_CHANGES + 1))}, {"edit.changes"}),
    ],
)
def test_violations_name_their_fields(fields: dict[str, Any], expected: set[str]) -> None:
    """All of a message's at once."""
    assert violations(**fields) == expected


def test_every_reply_is_put_into_words() -> None:
    """And a failure has the reason, and the wait, of the unary calls."""
    model = pb.ModelInfo(name="m")
    answer = Answer("x", FinishReason.STOP, Source.MEMORY, 0, 1)
    suggestion = to_reply(Suggestion("d", 2, "r", answer, 50), model).suggestion
    assert (suggestion.document_id, suggestion.version, suggestion.suggested_debounce_ms) == ("d", 2, 50)
    assert (suggestion.completion.text, suggestion.completion.request_id, suggestion.completion.model.name) == ("x", "r", "m")
    assert to_reply(Withdraw("d", "r"), model).withdraw == pb.Withdraw(document_id="d", request_id="r")
    assert to_reply(Pacing(10), model).pacing == pb.Pacing(suggested_debounce_ms=10)
    failure = to_reply(Failure("d", "r", Overloaded("full", 0.2)), model).failure
    assert (failure.reason, failure.message, failure.retry_after_ms) == ("OVERLOADED", "full", 200)
    reasons = [to_reply(Resync("d", 7, lost), model).resync for lost in Lost]
    assert {each.expected_version for each in reasons} == {7}
    assert {each.reason for each in reasons} == set(pb.ResyncReason.values()) - {pb.RESYNC_REASON_UNSPECIFIED}


def test_a_report_names_its_request_and_kind() -> None:
    """Every kind of the proto is known."""
    assert set(OUTCOME_KINDS) == set(pb.OutcomeKind.values()) - {pb.OUTCOME_KIND_UNSPECIFIED}
    assert to_report(pb.ReportRequest(request_id="r", kind=pb.OUTCOME_KIND_PARTIAL, accepted_chars=3)) == ("r", OutcomeKind.PARTIAL, 3)
    with pytest.raises(InvalidRequest) as caught:
        to_report(pb.ReportRequest())
    assert {each.field for each in caught.value.violations} == {"request_id", "kind"}
