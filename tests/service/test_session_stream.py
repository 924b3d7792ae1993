"""A session as its client meets it: real gRPC on loopback, the real pipeline, and a scripted engine behind it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyahead.engine.contract import EngineRequest, WorkClass
from keyahead.engine.tokenizer import Tokenizer
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc
from keyahead.service import session_stream
from keyahead.service.config import ServiceConfig
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, Outcome, Overloaded, Query
from keyahead.service.pipeline import Pipeline
from keyahead.service.requests import Limits
from keyahead.service.server import Server
from keyahead.service.session_stream import MAX_REPLIES, SessionStream
from tests.service.conftest import MakePipeline, ScriptedEngine
from tests.service.editor import HEAD, LINE, METADATA, TEXT, TOKEN, Client

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Service:
    """A server and what is behind it."""

    def __init__(
        self, server: Server, pipeline: Pipeline, engines: list[ScriptedEngine], metrics: Metrics, channel: grpc.aio.Channel
    ) -> None:
        self.server, self.pipeline, self.engines, self.metrics, self.channel = server, pipeline, engines, metrics, channel
        self.engine = engines[0]
        self.stub: Any = pb_grpc.AutocompleteStub(channel)

    def count(self, name: str, **labels: str) -> float:
        """A metric's value, 0 when it has none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0

    @property
    def real(self) -> list[Any]:
        """What the engine was asked that was no warming."""
        return [each for each in self.engine.decodes if each.request.work_class is not WorkClass.WARMING]


Serving = Callable[..., Any]


@pytest.fixture
def serving(make_pipeline: MakePipeline, tokenizer: Tokenizer, smol_folder: Path, tmp_path: Path) -> Serving:
    """Starts a server with its pipeline and engine; at its end nothing must be left running."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"acme:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")

    @asynccontextmanager
    async def start(*, engine: dict[str, Any] | None = None, engines: int = 1, **settings: Any) -> AsyncIterator[Service]:
        scripted = [ScriptedEngine(tokenizer, TEXT, **(engine or {})) for _ in range(engines)]
        metrics = Metrics()
        config = ServiceConfig(grpc_port=0, metrics_port=0, model_folder=smol_folder, tokens_file=tokens, **settings)
        pipeline = make_pipeline(*scripted)
        pipeline._metrics = metrics
        server = Server(config, pipeline, metrics)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Service(server, pipeline, scripted, metrics, channel)
        await until(lambda: metrics.registry.get_sample_value("keyahead_sessions") == 0)
        await until(lambda: all(decode.ended or not decode.num_sent for each in scripted for decode in each.decodes))
        await server.stop()
        assert not pipeline._generations._running
        assert not any(each.ahead._tasks for each in pipeline._fleet.engines)

    return start


def _seconds(metrics: Metrics, method: str) -> list[float]:
    """How many calls of a method there were, by outcome and source."""
    (family,) = (each for each in metrics.registry.collect() if each.name == "keyahead_request_seconds")
    return [each.value for each in family.samples if each.name.endswith("_count") and each.labels["method"] == method]


def _continues(later: EngineRequest, earlier: EngineRequest) -> bool:
    """Whether a call of a decode goes on where another one ended."""
    length = len(earlier.input_ids)
    return len(later.input_ids) > length and later.input_ids[:length] == earlier.input_ids


def _is_asked(engines: list[ScriptedEngine], before: list[int]) -> bool:
    """Whether one of them has been asked more often than before."""
    return [len(each.decodes) for each in engines] != before


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that must become true."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def test_typing_brings_suggestions_and_typing_through_brings_silence(serving: Serving) -> None:
    """The first key is answered with the rest of the line; to each further one that agrees nothing is said."""
    async with serving() as service:
        client = Client(service.stub)
        await client.open()
        await client.type("r")
        suggestion = await client.read()
        assert (suggestion.completion.text, suggestion.version) == (LINE[1:], 2)
        assert suggestion.completion.source == pb.SOURCE_ENGINE
        for character in LINE[1:20]:
            await client.type(character)
        await client.type("!")
        withdraw = await client.read()
        assert isinstance(withdraw, pb.Withdraw)
        assert withdraw.request_id == suggestion.completion.request_id
        assert service.count("keyahead_outcomes_total", kind="withdrawn", source="engine") == 1


async def test_opening_reads_the_prompt_behind_every_request(serving: Serving) -> None:
    """One token, in the tenant's namespace, behind all that is asked, and nobody is sent anything."""
    async with serving() as service:
        client = Client(service.stub)
        await client.open()
        await until(lambda: bool(service.engine.decodes) and service.engine.decodes[0].ended)
        (warm,) = service.engine.decodes
        assert (warm.request.max_new_tokens, warm.request.namespace, warm.request.work_class) == (1, "acme", WorkClass.WARMING)
        await client.type("r")
        await client.read()
        prompt = service.real[0].request.input_ids
        kept = len(warm.request.input_ids) - 1  # The last token may become another one by what is typed behind it.
        assert prompt[:kept] == warm.request.input_ids[:kept]


async def test_a_stream_that_is_opened_again_finds_its_engine(serving: Serving) -> None:
    """By the metadata x-session-id, whatever names the stream gives itself; of eight buffers both engines have some."""
    async with serving(engines=2) as service:
        found: dict[str, set[int]] = {}
        for turn, name in enumerate([f"buffer {number}" for number in range(8)] * 3):
            before = [len(each.decodes) for each in service.engines]
            client = Client(service.stub, (*METADATA, ("x-session-id", name)))
            await client.open(f"# {turn}\n{HEAD}")
            await until(partial(_is_asked, service.engines, before))
            asked = {number for number, each in enumerate(service.engines) if len(each.decodes) > before[number]}
            found[name] = found.get(name, set()) | asked
            await client.call.done_writing()
            await client.status()
        assert all(len(engines) == 1 for engines in found.values())
        assert set.union(*found.values()) == {0, 1}


async def test_the_first_request_that_needs_the_engine_ends_the_warming(serving: Serving) -> None:
    """Both would compute the same; what has been computed stays in the engine."""
    async with serving(engine={"seconds_per_token": 0.05}) as service:
        client = Client(service.stub)
        await client.open()
        await until(lambda: bool(service.engine.decodes))
        warm = service.engine.decodes[0]
        assert not warm.stopped
        await client.type("r")
        await until(lambda: bool(service.real))
        assert warm.stopped


async def test_keys_typed_while_it_decodes_join_one_decode(serving: Serving) -> None:
    """Each key supersedes the one before it; the decode goes on, and the last key is answered from it."""
    async with serving(engine={"seconds_per_token": 0.02}) as service:
        client = Client(service.stub)
        await client.open()
        for character in LINE[:5]:
            await client.type(character)
            await asyncio.sleep(0.01)
        suggestion = await client.read()
        assert suggestion.version == 6
        assert LINE[5:].startswith(suggestion.completion.text)
        begun = [call.request for call in service.real if not any(_continues(call.request, other.request) for other in service.real)]
        assert len(begun) <= 2
        assert service.count("keyahead_superseded_total") >= 1
        assert service.count("keyahead_cancels_total", phase="decode") == 0


async def test_what_the_budget_cuts_short_follows_by_itself(serving: Serving) -> None:
    """An automatic suggestion comes in time; its rest comes under the same name while nothing is typed."""
    async with serving(engine={"seconds_per_token": 0.03}, latency_budget_ms=80) as service:
        client = Client(service.stub)
        await client.open()
        await client.type("r")
        first, second = await client.read(), await client.read()
        assert first.completion.finish_reason == pb.FINISH_REASON_DEADLINE
        assert LINE[1:].startswith(first.completion.text)
        assert second.completion.text == LINE[1:]
        assert second.completion.request_id == first.completion.request_id
        assert second.version == first.version == 2
        for method in ("Session", "SessionRest"):  # What comes late by design is not in the figures of what must be in time.
            await until(lambda method=method: sum(_seconds(service.metrics, method)) == 1)  # type: ignore[misc]


async def test_a_lost_edit_is_resynchronised(serving: Serving) -> None:
    """Resync names the version; edits under way are dropped; Open makes it good."""
    async with serving() as service:
        client = Client(service.stub)
        await client.open()
        await client.send(edit=pb.Edit(document_id="d", base_version=2, version=3))
        await client.type("r")
        resync = await client.read()
        assert (resync.document_id, resync.expected_version, resync.reason) == ("d", 1, pb.RESYNC_REASON_VERSION)
        client.version, client.column = 1, 4
        await client.open()
        await client.type("r")
        assert (await client.read()).completion.text == LINE[1:]


async def test_a_suggestion_asked_by_hand_has_the_client_s_name(serving: Serving) -> None:
    """Without ask_on_edit nothing comes by itself."""
    async with serving() as service:
        client = Client(service.stub)
        await client.open(ask_on_edit=False)
        await client.type("r")
        await client.send(ask=pb.Ask(document_id="d", version=2, trigger=pb.TRIGGER_MANUAL, request_id="mine"))
        suggestion = await client.read()
        assert (suggestion.completion.request_id, suggestion.completion.text) == ("mine", LINE[1:])
        await client.send(accept=pb.Accept(request_id="mine"))
        await until(lambda: service.count("keyahead_outcomes_total", kind="accepted", source="engine") == 1)
        assert service.count("keyahead_suggested_chars_total", kind="accepted") == len(LINE) - 1


async def test_each_suggestion_is_a_call_to_the_metrics_and_the_stream_is_none(serving: Serving) -> None:
    """An hour of idle stream must not look like a slow request."""
    async with serving() as service:
        client = Client(service.stub)
        await client.open()
        await until(lambda: service.count("keyahead_sessions") == 1)
        await client.type("r")
        await client.read()
        await client.call.done_writing()
        assert await client.status() is grpc.StatusCode.OK
        await until(lambda: service.count("keyahead_sessions") == 0)
        ended = {"method": "Session", "outcome": "ok", "source": "engine", "trigger": "automatic"}
        await until(lambda: service.count("keyahead_request_seconds_count", **ended) == 1)
        assert service.count("keyahead_request_seconds_sum", **ended) < 5
        assert service.count("keyahead_outcomes_total", kind="withdrawn", source="engine") == 1


@pytest.mark.parametrize("half_close", [True, False])
async def test_the_end_of_a_stream_frees_the_engine(serving: Serving, half_close: bool) -> None:
    """Whether the client ends it or breaks it off: decoding and warming stop."""
    async with serving(engine={"seconds_per_token": 0.05}) as service:
        client = Client(service.stub)
        await client.open()
        await client.type("r")
        await until(lambda: bool(service.real))
        if half_close:
            await client.call.done_writing()
        else:
            client.call.cancel()
        await until(lambda: all(decode.stopped for decode in service.engine.decodes))
        assert sum(decode.num_sent for decode in service.engine.decodes) < 5


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (pb.SessionRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SessionRequest(close=pb.Close()), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SessionRequest(open=pb.Open(document_id="d")), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_breaks_a_limit_ends_the_stream(serving: Serving, message: pb.SessionRequest, code: grpc.StatusCode) -> None:
    """With the status that a unary call would have."""
    async with serving() as service:
        client = Client(service.stub)
        await client.call.write(message)
        assert await client.status() is code


async def test_bytes_that_are_no_message_end_the_stream_cleanly(serving: Serving) -> None:
    """Grpc itself would answer UNKNOWN."""
    async with serving() as service:
        call: Any = service.channel.stream_stream("/keyahead.v1.Autocomplete/Session")(metadata=METADATA)
        await call.write(b"\xff\xff\xff")
        async with asyncio.timeout(10):
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_needs_a_token_and_a_place(serving: Serving) -> None:
    """Sessions have a limit of their own; one that ends makes room."""
    async with serving(max_sessions=1) as service:
        assert await Client(service.stub, metadata=()).status() is grpc.StatusCode.UNAUTHENTICATED
        first = Client(service.stub)
        await first.open()
        await until(lambda: bool(service.engine.decodes))
        assert await Client(service.stub).status() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await first.call.done_writing()
        assert await first.status() is grpc.StatusCode.OK
        second = Client(service.stub)
        await second.open()
        await second.type("r")
        await second.read()


async def test_a_failure_leaves_the_stream_open(serving: Serving) -> None:
    """The reason, and after it suggestions again."""
    async with serving() as service:
        client = Client(service.stub)
        await client.open()
        await until(lambda: bool(service.engine.decodes) and service.engine.decodes[0].ended)
        service.engine.dead = True
        await client.type("r")
        failure = await client.read()
        assert (failure.reason, failure.document_id, failure.retry_after_ms) == ("ENGINE_UNAVAILABLE", "d", 1000)
        service.engine.dead = False
        await client.type("e")
        assert (await client.read()).completion.text == LINE[2:]


async def test_the_limit_of_calls_in_flight_holds_for_each_suggestion(serving: Serving) -> None:
    """An idle stream takes no place; a suggestion without one fails and leaves the stream open."""
    async with serving(max_in_flight=1, engine={"seconds_per_token": 0.03}) as service:
        one, other = Client(service.stub), Client(service.stub)
        for client in (one, other):
            await client.open(ask_on_edit=False)
            await client.type("r")
        ask = pb.Ask(document_id="d", version=2, trigger=pb.TRIGGER_MANUAL)
        await one.send(ask=ask)
        await until(lambda: service.count("keyahead_requests_in_flight") == 1)
        await other.send(ask=ask)
        assert (await other.read()).reason == "OVERLOADED"
        assert (await one.read()).completion.text == LINE[1:]


async def test_a_server_that_drains_sends_sessions_elsewhere(serving: Serving) -> None:
    """With a status that says so, at once."""
    async with serving() as service:
        client = Client(service.stub)
        await client.open()
        await until(lambda: bool(service.engine.decodes))
        drained = asyncio.create_task(service.server._in_flight.drain(5))
        assert await client.status() is grpc.StatusCode.UNAVAILABLE
        assert await drained is True


async def test_unary_callers_report_what_became_of_their_answers(serving: Serving) -> None:
    """Once, by request id."""
    async with serving() as service:
        document = pb.Document(path="a.py", split=pb.SplitText(prefix=HEAD + "r", suffix="\n"))
        request = pb.CompleteRequest(document=document, trigger=pb.TRIGGER_MANUAL, mode=pb.MODE_SINGLE_LINE)
        answer = await service.stub.Complete(request, metadata=METADATA)
        report = pb.ReportRequest(request_id=answer.request_id, kind=pb.OUTCOME_KIND_PARTIAL, accepted_chars=5)
        assert [(await service.stub.Report(report, metadata=METADATA)).known for _ in range(2)] == [True, False]
        assert service.count("keyahead_outcomes_total", kind="partial", source="engine") == 1
        assert service.count("keyahead_suggested_chars_total", kind="accepted") == 5
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.Report(pb.ReportRequest(), metadata=METADATA)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class NoService:
    """A host that is never asked anything."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()

    async def suggest(self, query: Query, seconds: float | None) -> Answer:
        raise AssertionError

    def warm(self, query: Query) -> None:
        raise AssertionError

    def cool(self, query: Query) -> None:
        raise AssertionError

    def record(self, tenant: str, outcome: Outcome) -> None:
        raise AssertionError


async def test_a_client_that_does_not_read_is_not_read_from_and_then_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is bounded; a write that takes too long ends the stream."""
    monkeypatch.setattr(session_stream, "WRITE_S", 0.2)
    num_read = 0

    async def requests() -> AsyncIterator[pb.SessionRequest]:
        nonlocal num_read
        while True:
            num_read += 1
            yield pb.SessionRequest(ask=pb.Ask(document_id=f"d{num_read}"))
            await asyncio.sleep(0)

    async def write(_: pb.SessionResponse) -> None:
        await asyncio.sleep(60)

    with pytest.raises(Overloaded):
        await SessionStream(NoService(), "acme", Limits(), pb.ModelInfo()).run(requests(), write)
    assert num_read <= MAX_REPLIES + 2
