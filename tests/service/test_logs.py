"""Nothing a user typed, or a model answered, is ever in a log, an error or a metric."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from prometheus_client import generate_latest

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc
from keyahead.service import logs
from keyahead.service.config import ServiceConfig
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, Deadline, EngineUnavailable, FinishReason, Query, Show, Source, Superseded
from keyahead.service.server import Server

CANARY = "canary7f3a"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the service logs; the process's logging is put back afterwards."""
    handlers, stream = logging.root.handlers, io.StringIO()
    logs.configure(stream)
    yield stream
    logging.root.handlers = handlers
    structlog.reset_defaults()


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """The log, parsed."""
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_only_fields_on_the_list_are_written(log: io.StringIO) -> None:
    """A careless field is dropped; time, level and the rest are there."""
    structlog.get_logger().info("call", method="Complete", text=CANARY, prefix_chars=3)
    (line,) = lines(log)
    assert line.keys() == {"event", "level", "timestamp", "method", "prefix_chars"}
    assert (line["event"], line["level"], line["prefix_chars"]) == ("call", "info", 3)


def test_what_json_does_not_know_costs_no_call(log: io.StringIO) -> None:
    """A value of another type is told by its representation."""
    structlog.get_logger().info("call", config={"redis_url": Path("a")}, elapsed_ms=1.5, reason="é")
    (line,) = lines(log)
    assert (line["config"], line["elapsed_ms"], line["reason"]) == ({"redis_url": repr(Path("a"))}, 1.5, "é")


def test_a_library_s_message_is_told_without_its_text(log: io.StringIO) -> None:
    """Which library, where, and what kind of error; warnings and worse only."""
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("some.library").exception("failed on %s", CANARY)
    logging.getLogger("some.library").info("quiet")
    (line,) = lines(log)
    assert (line["event"], line["logger"], line["error_type"], line["level"]) == ("library", "some.library", "ValueError", "error")
    assert CANARY not in log.getvalue()


def test_an_error_is_described_by_where_it_went() -> None:
    """File, line and function of each frame; never the message."""

    def fail() -> None:
        raise ValueError(CANARY)

    with pytest.raises(ValueError, match=CANARY) as caught:
        fail()
    described = logs.describe(caught.value)
    assert described["error_type"] == "ValueError"
    assert str(described["frames"]).endswith("fail']")
    assert CANARY not in str(described)


class Completer:
    """Ends each call in the way that the request's language names, quoting the user's text wherever it can."""

    ready = True

    def at_hand(self, _: Query) -> Answer | None:
        return None

    async def complete(self, query: Query, _: Deadline, show: Show) -> Answer:
        """Answer or fail, loudly."""
        await show(query.prefix)
        failures: dict[str, BaseException] = {
            "value": ValueError(query.prefix),
            "key": KeyError(query.suffix),
            "engine": EngineUnavailable(query.prefix),
            "superseded": Superseded(query.prefix),
            "cancelled": asyncio.CancelledError(query.prefix),
        }
        if query.language == "task":
            # Never retrieved: asyncio logs its exception whole.
            asyncio.get_running_loop().create_future().set_exception(ValueError(query.prefix))
            gc.collect()
        elif query.language:
            raise failures[query.language]
        return Answer(query.prefix, FinishReason.STOP, Source.ENGINE, 1, 1)

    async def aclose(self) -> None:
        """Nothing is held."""


def canary_requests() -> list[bytes]:
    """A good request, one for each failure, and bad ones with the canary in every field."""
    text = f"password = '{CANARY}'\n"
    good = [
        pb.CompleteRequest(
            document=pb.Document(path=CANARY, language=language, split=pb.SplitText(prefix=text, suffix=text)),
            context=[pb.ContextFile(path=CANARY, text=text)],
            session_id=CANARY,
            trigger=pb.TRIGGER_MANUAL,
        )
        for language in ("", "value", "key", "engine", "superseded", "cancelled", "task")
    ]
    bad = pb.CompleteRequest(
        document=pb.Document(path=f"{CANARY}\n", language=f"{CANARY} ", whole=pb.CursorText(text=text, line=9)),
        context=[pb.ContextFile(path=f"{CANARY}\n", text=f"{CANARY}\0")],
        session_id=f"{CANARY} ",
        request_id=f"{CANARY} ",
    )
    return [each.SerializeToString() for each in (*good, bad)] + [b"\xff" + CANARY.encode()]


@pytest.mark.asyncio(loop_scope="session")
async def test_a_canary_in_every_field_leaves_no_trace(log: io.StringIO, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Through answers and every kind of failure: not in the log, an error's message or details, a metric, or the process's output."""
    metrics = Metrics()
    server = Server(ServiceConfig(grpc_port=0, metrics_port=0, model_folder=tmp_path), Completer(), metrics)  # type: ignore[arg-type]
    await server.start()
    told, answers = [], []
    channel: Any
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for raw in canary_requests():
            try:
                answers.append(await channel.unary_unary("/keyahead.v1.Autocomplete/Complete")(raw, metadata=(("x-note", CANARY),)))
            except grpc.aio.AioRpcError as error:
                told.append((error.code().name, repr((error.details(), error.trailing_metadata(), error.initial_metadata()))))
        stub: Any = pb_grpc.AutocompleteStub(channel)
        streamed = pb.StreamCompleteRequest(request=pb.CompleteRequest.FromString(canary_requests()[1]))
        stream = stub.StreamComplete(streamed)
        assert CANARY in (await stream.read()).delta
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        told.append((caught.value.code().name, repr((caught.value.details(), caught.value.trailing_metadata()))))
    await server.stop()
    codes = ["INTERNAL", "INTERNAL", "UNAVAILABLE", "ABORTED", "UNAVAILABLE", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "INTERNAL"]
    assert [code for code, _ in told] == codes
    assert len(answers) == 2
    events = [each["event"] for each in lines(log)]
    assert (events.count("call"), events.count("internal error"), events.count("library")) == (10, 3, 1)
    assert all(each["error_id"] for each in lines(log) if each["event"] == "internal error")
    sys.stdout.flush()
    seen = log.getvalue() + str(told) + generate_latest(metrics.registry).decode() + "".join(capfd.readouterr())
    assert CANARY not in seen
