"""Requests become queries, or a list of everything that is wrong with them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service.errors import InvalidRequest
from keyahead.service.model import Answer, ContextFile, FinishReason, Mode, Query, Source, Timings, Trigger
from keyahead.service.requests import Limits, to_query, to_response

LIMITS = Limits(document_bytes=100, context_bytes=20, context_files=2)
TEXTS = st.text(st.sampled_from("ab\r\n\té値😀"), max_size=40)
CODECS = {
    pb.POSITION_ENCODING_UNSPECIFIED: ("utf-16-le", 2),
    pb.POSITION_ENCODING_UTF16: ("utf-16-le", 2),
    pb.POSITION_ENCODING_UTF8: ("utf-8", 1),
    pb.POSITION_ENCODING_UTF32: ("utf-32-le", 4),
}


def request(**changes: Any) -> pb.CompleteRequest:
    """A valid request with some fields changed."""
    return pb.CompleteRequest(**{"document": pb.Document(split=pb.SplitText(prefix="a")), **changes})


def whole(text: str, line: int, character: int, encoding: Any = 0) -> pb.CompleteRequest:
    """A request with the whole text and a cursor."""
    return request(document=pb.Document(whole=pb.CursorText(text=text, line=line, character=character, encoding=encoding)))


def query(message: pb.CompleteRequest, limits: Limits = Limits()) -> Query:  # noqa: B008  # frozen
    """The query of a message that is expected to be valid."""
    return to_query(message, "acme", limits)


def violations(message: pb.CompleteRequest, limits: Limits = LIMITS) -> dict[str, str]:
    """What is wrong, by field."""
    with pytest.raises(InvalidRequest) as caught:
        to_query(message, "acme", limits)
    return {each.field: each.description for each in caught.value.violations}


@given(prefix=TEXTS, suffix=TEXTS)
def test_a_split_text_is_taken_as_it_is(prefix: str, suffix: str) -> None:
    """Prefix and suffix reach the query unchanged."""
    found = query(request(document=pb.Document(split=pb.SplitText(prefix=prefix, suffix=suffix))))
    assert (found.prefix, found.suffix) == (prefix, suffix)


@given(text=TEXTS, data=st.data(), encoding=st.sampled_from(sorted(CODECS)))
def test_a_cursor_cuts_the_text_where_an_lsp_client_means(text: str, data: st.DataObject, encoding: Any) -> None:
    """Every position between two characters, in every encoding, agrees with splitting the text into lines."""
    at = data.draw(st.integers(0, len(text)))
    if text[max(0, at - 1) : at + 1] == "\r\n":
        at += 1
    lines = re.split(r"\r\n|\r|\n", text[:at])
    codec, width = CODECS[encoding]
    found = query(whole(text, len(lines) - 1, len(lines[-1].encode(codec)) // width, encoding))
    assert (found.prefix, found.suffix) == (text[:at], text[at:])


@given(text=TEXTS, line=st.integers(0, 50), character=st.integers(0, 100), encoding=st.sampled_from(sorted(CODECS)))
def test_any_cursor_is_cut_or_refused(text: str, line: int, character: int, encoding: Any) -> None:
    """A cut loses nothing; a cursor that is nowhere names its line or character."""
    try:
        found = to_query(whole(text, line, character, encoding), "acme", LIMITS)
    except InvalidRequest as error:
        named = {each.field for each in error.violations}
    else:
        named = set()
        assert found.prefix + found.suffix == text
    assert named <= {"document.whole.line", "document.whole.character", "document.whole"}


@pytest.mark.parametrize(
    ("text", "line", "character", "encoding", "field", "range_"),
    [
        ("a\nb", 2, 0, pb.POSITION_ENCODING_UTF16, "document.whole.line", "0 to 1"),
        ("abc\r\nd", 0, 4, pb.POSITION_ENCODING_UTF16, "document.whole.character", "0 to 3"),
        ("a😀\n", 0, 4, pb.POSITION_ENCODING_UTF16, "document.whole.character", "0 to 3"),
        ("é", 0, 3, pb.POSITION_ENCODING_UTF8, "document.whole.character", "0 to 2"),
        ("😀", 0, 2, pb.POSITION_ENCODING_UTF32, "document.whole.character", "0 to 1"),
        ("", 0, 4_294_967_295, pb.POSITION_ENCODING_UTF32, "document.whole.character", "0 to 0"),
    ],
)
def test_a_cursor_outside_names_the_valid_range(text: str, line: int, character: int, encoding: Any, field: str, range_: str) -> None:
    """The violation tells which positions exist, in the client's own units."""
    assert range_ in violations(whole(text, line, character, encoding))[field]


@pytest.mark.parametrize(
    ("encoding", "character"), [(pb.POSITION_ENCODING_UTF16, 1), (pb.POSITION_ENCODING_UTF8, 1), (pb.POSITION_ENCODING_UTF8, 3)]
)
def test_a_cursor_inside_a_character_is_refused(encoding: Any, character: int) -> None:
    """Neither a surrogate pair nor a UTF-8 sequence is cut in two."""
    assert "inside a character" in violations(whole("😀", 0, character, encoding))["document.whole.character"]


@pytest.mark.parametrize(
    ("field", "allowed", "refused"),
    [
        ("session_id", {"session_id": "aZ0._:-" + "x" * 121}, {"session_id": "x" * 129}),
        ("session_id", {"session_id": ""}, {"session_id": "a b"}),
        ("request_id", {"request_id": "x" * 128}, {"request_id": "x" * 129}),
        ("request_id", {"request_id": "r-1"}, {"request_id": "line\n"}),
        ("max_tokens", {"max_tokens": 256}, {"max_tokens": 257}),
        ("mode", {"mode": pb.MODE_BLOCK}, {"mode": 4}),
        ("trigger", {"trigger": pb.TRIGGER_MANUAL}, {"trigger": 3}),
        ("context", {"context": [pb.ContextFile(text="x")] * 2}, {"context": [pb.ContextFile()] * 3}),
        ("context", {"context": [pb.ContextFile(text="é" * 10)]}, {"context": [pb.ContextFile(text="é" * 10), pb.ContextFile(text="x")]}),
        ("context[0].text", {"context": [pb.ContextFile(text="\x01")]}, {"context": [pb.ContextFile(text="\0")]}),
        ("context[1].path", {"context": [pb.ContextFile(path="é" * 512)]}, {"context": [pb.ContextFile(), pb.ContextFile(path="é" * 513)]}),
    ],
)
def test_each_limit_holds_to_the_last_unit(field: str, allowed: dict[str, Any], refused: dict[str, Any]) -> None:
    """The largest allowed value passes; one more is a violation of that field and of no other."""
    query(request(**allowed), LIMITS)
    assert set(violations(request(**refused))) == {field}


@pytest.mark.parametrize(
    ("field", "allowed", "refused"),
    [
        ("document.path", {"path": "x" * 1024}, {"path": "x" * 1025}),
        ("document.path", {"path": "a b/é.py"}, {"path": "a\nb"}),
        ("document.language", {"language": "c++"}, {"language": "x" * 65}),
        ("document.language", {"language": "objective-c"}, {"language": "p y"}),
        ("document.split", {"split": pb.SplitText(prefix="é" * 25, suffix="x" * 50)}, {"split": pb.SplitText(prefix="é" * 50, suffix="x")}),
        ("document.split", {"split": pb.SplitText(prefix="\x01")}, {"split": pb.SplitText(suffix="\0")}),
        ("document.whole", {"whole": pb.CursorText(text="x" * 100)}, {"whole": pb.CursorText(text="x" * 101)}),
        ("document.whole.encoding", {"whole": pb.CursorText(encoding=pb.POSITION_ENCODING_UTF8)}, {"whole": pb.CursorText(encoding=9)}),  # type: ignore[arg-type]
    ],
)
def test_each_limit_of_the_document_holds_to_the_last_unit(field: str, allowed: dict[str, Any], refused: dict[str, Any]) -> None:
    """As above, for the document's own fields."""
    query(request(document=pb.Document(**{"split": pb.SplitText(), **allowed} if "whole" not in allowed else allowed)), LIMITS)
    assert set(
        violations(request(document=pb.Document(**{"split": pb.SplitText(), **refused} if "whole" not in refused else refused)))
    ) == {field}


def test_a_document_without_text_is_refused() -> None:
    """The oneof is required, and the cure names both forms."""
    assert "document.split" in violations(pb.CompleteRequest())["document"]


def test_all_violations_are_reported_at_once_below_the_message_s_root() -> None:
    """A client learns everything in one round trip, with paths in the message it sent."""
    bad = pb.CompleteRequest(session_id="!", max_tokens=999, document=pb.Document(language="!", whole=pb.CursorText(line=7)))
    with pytest.raises(InvalidRequest) as caught:
        to_query(bad, "acme", LIMITS, "request.")
    assert {each.field for each in caught.value.violations} == {
        "request.session_id",
        "request.max_tokens",
        "request.document.language",
        "request.document.whole.line",
    }


def test_a_full_request_becomes_the_query_it_describes() -> None:
    """Every field arrives; the tenant comes from the caller alone."""
    message = pb.CompleteRequest(
        document=pb.Document(path="a.py", language="python", split=pb.SplitText(prefix="p", suffix="s")),
        context=[pb.ContextFile(path="b.py", text="x")],
        mode=pb.MODE_SINGLE_LINE,
        trigger=pb.TRIGGER_MANUAL,
        session_id="s1",
        request_id="r1",
        max_tokens=7,
    )
    assert query(message) == Query(
        "p", "s", "a.py", "python", (ContextFile("b.py", "x"),), Mode.SINGLE_LINE, Trigger.MANUAL, "acme", "s1", "r1", 7
    )


def test_unset_fields_mean_their_documented_defaults() -> None:
    """AUTO, AUTOMATIC, and a request id made by the server, a new one each time."""
    first, second = query(request()), query(request())
    assert (first.mode, first.trigger, first.max_tokens) == (Mode.AUTO, Trigger.AUTOMATIC, 0)
    assert first.request_id
    assert first.request_id != second.request_id


@given(finish=st.sampled_from(FinishReason), source=st.sampled_from(Source))
def test_an_answer_is_put_into_the_response_whole(finish: FinishReason, source: Source) -> None:
    """Names of reasons and sources agree with the proto's; counts and timings arrive."""
    timings = Timings(1, 2, 3, 4, 5, 6, 7)
    response = to_response(Answer("text", finish, source, 11, 3, timings), "r1", pb.ModelInfo(name="m", version="0123456789ab"))
    assert pb.FinishReason.Name(response.finish_reason) == f"FINISH_REASON_{finish.name}"
    assert pb.Source.Name(response.source) == f"SOURCE_{source.name}"
    assert (response.request_id, response.text, response.tokens.prompt, response.tokens.completion) == ("r1", "text", 11, 3)
    assert (response.timings_ms.admit, response.timings_ms.trim, response.timings_ms.total) == (1, 6, 7)
    assert response.model.version == "0123456789ab"
