"""`keyahead complete` against a scripted service on a real socket."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from keyahead.cli.complete import locate, parse_place, printable
from keyahead.cli.main import app
from keyahead.cli.output import UsageError
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb

if TYPE_CHECKING:
    from tests.cli.conftest import Answer, ScriptedService


def run(service: ScriptedService, *arguments: str) -> Result:
    """`keyahead complete` asking this service."""
    return CliRunner().invoke(app, ["complete", *arguments, "--address", service.address])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file with a two-byte and a four-byte character and both kinds of line end."""
    path = tmp_path / "app.py"
    path.write_bytes("def grüße():\r\n    return '😀'\nlast".encode())
    return path


def test_the_request_is_what_was_asked(service: ScriptedService, file: Path) -> None:
    """The text is cut at the cursor, in characters, and every option reaches the service."""
    other = file.with_name("other.py")
    other.write_text("x = 1\n")
    options = ("--mode", "single-line", "--max-tokens", "9", "--context", str(other), "--context", str(file))
    assert run(service, f"{file}:2:14", *options).exit_code == 0
    (request,) = service.requests
    assert request.document.split.prefix == "def grüße():\r\n    return '😀"
    assert request.document.split.suffix == "'\nlast"
    assert request.document.path == str(file)
    assert (request.mode, request.trigger, request.max_tokens) == (pb.MODE_SINGLE_LINE, pb.TRIGGER_MANUAL, 9)
    assert [each.text for each in request.context] == ["x = 1\n", "def grüße():\r\n    return '😀'\nlast"]


def test_json_is_the_last_line(service: ScriptedService, file: Path) -> None:
    """One object with every documented field; the text for people goes to standard error."""
    service.answers(lambda _request: "ing\n  it")
    result = run(service, f"{file}:3:5", "--json")
    assert json.loads(result.stdout) == {
        "text": "ing\n  it",
        "finish_reason": "stop",
        "source": "in_flight",
        "timings_ms": {"admit": 0, "cache": 0, "prompt": 0.25, "first_token": 0, "decode": 0, "trim": 0, "total": 12.5},
        "tokens": {"prompt": 7, "completion": 3},
        "model": {"name": "scripted", "version": "0123456789ab"},
        "request_id": "r1",
    }
    assert result.stderr == "lasting\n  it\nin_flight · 12 ms (prompt 0.2) · 3 tokens · stop\n"


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["unary", "stream"])
def test_the_line_is_shown_with_the_suggestion(service: ScriptedService, file: Path, stream: tuple[str, ...]) -> None:
    """The final answer counts: what trimming took back from the stream is gone."""
    service.deltas = ("a", "b", "c")
    service.answers(lambda _request: "ab")
    result = run(service, f"{file}:2:13", *stream)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "    return 'ab😀'")


def test_nothing_to_suggest_is_said(service: ScriptedService, file: Path) -> None:
    """An empty answer is no error."""
    service.answers(lambda _request: "")
    result = run(service, f"{file}:1:1")
    assert result.exit_code == 0
    assert "nothing to suggest" in result.stdout


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("{}", "does not name a place: give FILE:LINE:COL"),
        ("{}:x:1", "does not name a place"),
        (":1:1", "does not name a place"),
        ("{}:0:1", "has no line 0: give a line from 1 to 3."),
        ("{}:4:1", "has no line 4: give a line from 1 to 3."),
        ("{}:1:0", "has no column 0: give a column from 1 to 13."),
        ("{}:1:14", "has no column 14: give a column from 1 to 13."),
        ("{}.gone:1:1", "There is no file"),
        ("/:1:1", "cannot be read"),
    ],
)
def test_a_wrong_place_is_named_with_the_cure(service: ScriptedService, file: Path, where: str, sentence: str) -> None:
    """Exit code 2, one sentence, and the service is not asked."""
    result = run(service, where.format(file))
    assert (result.exit_code, result.stdout, service.requests) == (2, "", [])
    assert sentence in result.stderr


def test_a_file_that_is_not_utf8_is_refused(service: ScriptedService, file: Path) -> None:
    """The error names the byte."""
    file.write_bytes(b"abc\xff")
    result = run(service, f"{file}:1:1")
    assert result.exit_code == 2
    assert "not UTF-8 (byte 3)" in result.stderr


def test_no_service_is_said_with_the_cure(file: Path) -> None:
    """Exit code 1 and how to start one."""
    result = CliRunner().invoke(app, ["complete", f"{file}:1:1", "--address", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "No service answers at 127.0.0.1:1: start one with 'make run' or 'keyahead up'" in result.stderr


def refuse(code: grpc.StatusCode, *details: Message) -> Answer:
    """An answer function that fails with rich details, as the service does."""

    def answer(_request: pb.CompleteRequest, context: grpc.ServicerContext) -> pb.CompleteResponse:
        status = status_pb2.Status(code=code.value[0], message="the reason")
        for detail in details:
            status.details.add().Pack(detail)
        context.abort_with_status(rpc_status.to_status(status))

    return answer


def test_violations_are_listed(service: ScriptedService, file: Path) -> None:
    """A refused request names its fields."""
    violation = error_details_pb2.BadRequest.FieldViolation
    bad = error_details_pb2.BadRequest(
        field_violations=[violation(field="a.b", description="too long"), violation(field="c", description="empty")]
    )
    service.behaves(refuse(grpc.StatusCode.INVALID_ARGUMENT, bad))
    result = run(service, f"{file}:1:1")
    assert result.exit_code == 1
    assert result.stderr == "keyahead: The service refused with INVALID_ARGUMENT: a.b: too long; c: empty.\n"


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["unary", "stream"])
def test_an_engine_away_is_not_a_service_away(service: ScriptedService, file: Path, stream: tuple[str, ...]) -> None:
    """UNAVAILABLE from the service itself keeps its own reason and retry hint."""
    service.behaves(refuse(grpc.StatusCode.UNAVAILABLE, error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))))
    result = run(service, f"{file}:1:1", *stream)
    assert result.exit_code == 1
    assert result.stderr == "keyahead: The service refused with UNAVAILABLE: the reason; try again in 2.0 s.\n"


def test_the_timeout_is_kept(service: ScriptedService, file: Path) -> None:
    """A service that hangs is given up, with a sentence."""

    def hang(_request: pb.CompleteRequest, context: grpc.ServicerContext) -> pb.CompleteResponse:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()
        return pb.CompleteResponse()

    service.behaves(hang)
    result = run(service, f"{file}:1:1", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "did not answer in time" in result.stderr


@given(st.text(alphabet="ab😀\r\n", max_size=20), st.data())
def test_locate_is_the_inverse_of_counting(text: str, data: st.DataObject) -> None:
    """Every offset that is not between CR and LF has a line and column, which lead back to it."""
    offset = data.draw(st.integers(0, len(text)).filter(lambda each: text[each - 1 : each + 1] != "\r\n" or each == 0))
    prefix = text[:offset]
    place = locate(text, "x", prefix.count("\n") + 1, offset - prefix.rfind("\n"))
    assert (place.prefix, place.suffix) == (prefix, text[offset:])


@given(st.text(alphabet="a\n\r", max_size=10), st.integers(-1, 12), st.integers(-1, 12))
def test_locate_stays_on_the_line_or_refuses(text: str, line: int, column: int) -> None:
    """A place in the file has its line and column; any other is an error that gives the range."""
    lines = text.split("\n")
    if 1 <= line <= len(lines) and 1 <= column <= len(lines[line - 1].rstrip("\r")) + 1:
        place = locate(text, "x", line, column)
        assert place.prefix.count("\n") + 1 == line
        assert len(place.prefix.rpartition("\n")[2]) + 1 == column
    elif not 1 <= line <= len(lines) or not 1 <= column <= len(lines[line - 1]) + 1:
        with pytest.raises(UsageError, match=r" from 1 to \d+\."):
            locate(text, "x", line, column)


def test_a_name_may_contain_colons() -> None:
    """Only the last two colons count."""
    assert parse_place("a:b:1:2") == (Path("a:b"), 1, 2)


def test_no_control_character_reaches_the_terminal() -> None:
    """Escape sequences of a file or a model become pictures; tabs and line ends stay."""
    assert printable("\x1b[2J\x9b1m\t\n\x7f") == "␛[2J␡1m\t\n␡"
