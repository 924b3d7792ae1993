"""The server as a client meets it: real gRPC on loopback, in front of a scripted completer."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc
from keyahead.service.config import ServiceConfig
from keyahead.service.health import Health
from keyahead.service.interceptors import InFlightLimit
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, Deadline, FinishReason, Query, Show, Source, Superseded
from keyahead.service.server import Autocomplete, Server, StartError
from tests.service.completer import ANSWER, Scripted, answer_at_once, hang

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass
class Running:
    """A server and its client."""

    server: Server
    completer: Scripted
    channel: Any
    stub: Any


@asynccontextmanager
async def serving(folder: Path, completer: Scripted, **settings_: Any) -> AsyncIterator[Running]:
    """A started server with a connected client."""
    config = ServiceConfig(**{"grpc_port": 0, "metrics_port": 0, "model_folder": folder, "model_version": "0123456789ab", **settings_})
    server = Server(config, completer, Metrics())
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Running(server, completer, channel, pb_grpc.AutocompleteStub(channel))
    finally:
        await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One server for all tests that need no special one."""
    async with serving(tmp_path_factory.mktemp("model"), Scripted()) as found:
        yield found


@pytest.fixture(autouse=True)
def _forget(request: pytest.FixtureRequest) -> None:
    """Each test finds the shared server as it was when new."""
    if "running" in request.fixturenames:
        request.getfixturevalue("running").completer.__init__()


def ask(text: str = "def add(a, b):\n    ", **changes: Any) -> pb.CompleteRequest:
    """A valid request."""
    return pb.CompleteRequest(**{"document": pb.Document(split=pb.SplitText(prefix=text)), **changes})


async def failure(call: Any) -> Any:
    """The error a call is expected to end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(20):
            await call
    return caught.value


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that must become true."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def test_complete_answers_with_everything_the_completer_said(running: Running) -> None:
    """Text, reasons, model, counts and the request's own id come back."""
    response = await running.stub.Complete(ask(request_id="r1"))
    assert (response.request_id, response.text, response.tokens.completion) == ("r1", "return a + b", 5)
    assert response.finish_reason == pb.FINISH_REASON_STOP
    assert response.source == pb.SOURCE_ENGINE
    assert (response.model.name, response.model.version) == ("qwen2.5-coder-0.5b", "0123456789ab")


async def test_a_stream_is_its_deltas_and_then_the_same_answer(running: Running) -> None:
    """The last message is `done`, and it is what counts; the completer knows that text is shown meanwhile."""
    events = [each async for each in running.stub.StreamComplete(pb.StreamCompleteRequest(request=ask()))]
    assert [each.delta for each in events[:-1]] == ["return a", " + b"]
    assert events[-1].done.text == "return a + b"
    await running.stub.Complete(ask())
    assert [each.streamed for each in running.completer.queries] == [True, False]


async def test_violations_reach_the_client_as_bad_request_with_paths(running: Running) -> None:
    """In a stream's request the paths begin at the message that was sent."""
    bad = ask(max_tokens=999)
    for call, path in (
        (running.stub.Complete(bad), "max_tokens"),
        (running.stub.StreamComplete(pb.StreamCompleteRequest(request=bad)).read(), "request.max_tokens"),
        (running.stub.StreamComplete(pb.StreamCompleteRequest()).read(), "request"),
    ):
        status = rpc_status.from_call(await failure(call))
        details = error_details_pb2.BadRequest()
        assert any(each.Unpack(details) for each in status.details)
        assert [each.field for each in details.field_violations] == [path]


@pytest.mark.parametrize(
    ("trigger", "timeout_s", "low", "high"),
    [
        (pb.TRIGGER_UNSPECIFIED, None, 0.1, 0.18),
        (pb.TRIGGER_AUTOMATIC, 20, 0.1, 0.18),
        # On the wire, timeouts are rounded up to about three digits.
        (pb.TRIGGER_AUTOMATIC, 0.15, 0.01, 0.149),
        (pb.TRIGGER_MANUAL, 20, 15, 20.09),
        (pb.TRIGGER_MANUAL, 3600, 25, 29.99),
        (pb.TRIGGER_MANUAL, None, 25, 29.99),
    ],
)
async def test_the_completer_gets_the_client_s_time_less_the_reserve(
    running: Running, trigger: Any, timeout_s: float | None, low: float, high: float
) -> None:
    """Automatic requests get at most the server's budget, all others at most its maximum."""
    await running.stub.Complete(ask(trigger=trigger), timeout=timeout_s)
    assert low < running.completer.budgets_s[0] <= high


async def test_an_answer_at_hand_is_given_without_more_ado(running: Running) -> None:
    """Nothing is begun for it, and it is all that a stream shows."""
    running.completer.held = dataclasses.replace(ANSWER, source=Source.MEMORY)
    response = await running.stub.Complete(ask())
    assert (response.text, response.source) == (ANSWER.text, pb.SOURCE_MEMORY)
    shown = [each.WhichOneof("event") async for each in running.stub.StreamComplete(pb.StreamCompleteRequest(request=ask()))]
    assert shown == ["done"]
    assert running.completer.queries == []


async def test_an_answer_cut_by_the_deadline_is_delivered_in_time(running: Running) -> None:
    """A completer that works up to its deadline still answers before the client's."""

    async def work_till_the_end(_: Query, deadline: Deadline, __: Show) -> Answer:
        await asyncio.sleep(deadline.remaining())
        return Answer("partial", FinishReason.DEADLINE, Source.ENGINE, 1, 1)

    running.completer.script = work_till_the_end
    response = await running.stub.Complete(ask(trigger=pb.TRIGGER_MANUAL), timeout=0.5)
    assert (response.text, response.finish_reason) == ("partial", pb.FINISH_REASON_DEADLINE)


async def test_a_completer_that_never_answers_is_ended_at_the_maximum(tmp_path: Path) -> None:
    """Also when the client set no deadline; the iterator is closed."""
    async with serving(tmp_path, Scripted(hang), max_deadline_ms=100) as found:
        assert (await failure(found.stub.Complete(ask()))).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: found.completer.closed == 1)


@pytest.mark.parametrize("streaming", [False, True])
async def test_when_the_client_leaves_the_iterator_is_closed(running: Running, streaming: bool) -> None:
    """By a cancel as well as by the client's own deadline."""
    running.completer.script = hang

    def start(timeout: float | None = None) -> Any:
        request = ask(trigger=pb.TRIGGER_MANUAL)
        if streaming:
            return running.stub.StreamComplete(pb.StreamCompleteRequest(request=request), timeout=timeout)
        return running.stub.Complete(request, timeout=timeout)

    call = start()
    await until(lambda: len(running.completer.queries) == 1)
    call.cancel()
    await until(lambda: running.completer.closed == 1)
    late = start(timeout=0.1)
    assert await late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: running.completer.closed == 2)


async def test_a_cancel_closes_the_iterator_within_one_turn_of_the_loop(tmp_path: Path) -> None:
    """The engine is told at once, whether the completer is waiting or the delta is being sent."""

    class Context:
        """A client that accepts nothing."""

        def time_remaining(self) -> None:
            return None

        async def write(self, _: object) -> None:
            await asyncio.sleep(60)

    for script in (hang, answer_at_once):
        completer = Scripted(script)
        metrics = Metrics()
        service = Autocomplete(ServiceConfig(model_folder=tmp_path), completer, metrics, InFlightLimit(1, 1, metrics))
        task = asyncio.create_task(service._complete(Query("", ""), None, Context().write))
        await asyncio.sleep(0.05)
        assert completer.closed == 0
        task.cancel()
        await asyncio.sleep(0)
        assert completer.closed == 1
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_superseded_call_is_aborted_also_in_the_middle_of_a_stream(running: Running) -> None:
    """ABORTED with its reason, after the deltas that were sent."""

    async def supersede(_: Query, __: Deadline, show: Show) -> Answer:
        await show("x")
        raise Superseded

    running.completer.script = supersede
    assert (await failure(running.stub.Complete(ask()))).code() == grpc.StatusCode.ABORTED
    stream = running.stub.StreamComplete(pb.StreamCompleteRequest(request=ask()))
    assert (await stream.read()).delta == "x"
    error = await failure(stream.read())
    info = error_details_pb2.ErrorInfo()
    assert any(each.Unpack(info) for each in rpc_status.from_call(error).details)
    assert (error.code(), info.reason) == (grpc.StatusCode.ABORTED, "SUPERSEDED")


async def test_a_message_over_the_limit_is_refused_and_a_full_megabyte_is_not(running: Running) -> None:
    """The proto promises 1 MiB; just above it the field is named, far above it grpc refuses by size."""
    mib = 1 << 20
    assert (await running.stub.Complete(ask("x" * mib))).text
    assert (await failure(running.stub.Complete(ask("x" * (mib + 1))))).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await failure(running.stub.Complete(ask("x" * 3 * mib)))).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await failure(running.stub.Complete(ask("x" * 5 * mib)))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_method_is_unimplemented(running: Running) -> None:
    """A newer plugin learns that this server is older."""
    call = running.channel.unary_unary("/keyahead.v1.Autocomplete/Explain")
    assert (await failure(call(b""))).code() == grpc.StatusCode.UNIMPLEMENTED


VALID = ask(
    session_id="s", request_id="r", context=[pb.ContextFile(path="a", text="b")], mode=pb.MODE_BLOCK, max_tokens=9
).SerializeToString()
MALFORMED = st.one_of(
    st.binary(max_size=200),
    st.integers(0, len(VALID)).map(lambda end: VALID[:end]),
    st.tuples(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=4)).map(
        lambda patch: VALID[: patch[0]] + patch[1] + VALID[patch[0] + len(patch[1]) :]
    ),
    st.builds(
        lambda text, line, character, encoding: pb.CompleteRequest(
            document=pb.Document(whole=pb.CursorText(text=text, line=line, character=character, encoding=encoding))
        ).SerializeToString(),
        st.text(max_size=20),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(-(2**31), 2**31 - 1),
    ),
)


@settings(max_examples=600, deadline=None)
@given(raw=MALFORMED, wrapped=st.booleans())
async def test_malformed_messages_get_a_clean_status_and_the_server_goes_on(running: Running, raw: bytes, wrapped: bool) -> None:
    """Random, cut and patched bytes are answered or INVALID_ARGUMENT: never UNKNOWN, INTERNAL or nothing."""
    if wrapped:
        stream = running.channel.unary_stream("/keyahead.v1.Autocomplete/StreamComplete")
        call: Any = stream(raw).read()
    else:
        call = running.channel.unary_unary("/keyahead.v1.Autocomplete/Complete")(raw)
    try:
        async with asyncio.timeout(20):
            await call
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017  # a call may also succeed


async def test_reflection_lists_our_service(running: Running) -> None:
    """Grpcurl and its like find the API without the proto files."""
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = {each.name for each in (await call.read()).list_services_response.service}
    await call.done_writing()
    assert {"keyahead.v1.Autocomplete", "grpc.health.v1.Health"} <= listed
    assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]  # grpc-stubs lacks it


async def test_no_task_is_left_of_a_thousand_cancelled_calls(running: Running) -> None:
    """Every handler ends, and the in-flight count with it."""
    running.completer.script = hang
    before = len(asyncio.all_tasks())
    for _ in range(20):
        calls = [running.stub.Complete(ask(trigger=pb.TRIGGER_MANUAL)) for _ in range(50)]
        await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        await asyncio.gather(*(_settle(call) for call in calls))
    await until(lambda: running.completer.closed == len(running.completer.queries))
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def _settle(call: Any) -> None:
    """Wait for a cancelled call. On a machine that stalls, grpc may refuse some of so many streams first (UNAVAILABLE)."""
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await call


async def test_stopping_lets_running_calls_end_and_refuses_new_ones(tmp_path: Path) -> None:
    """Readiness goes first; the completer is released last."""
    go = asyncio.Event()

    async def wait(_: Query, __: Deadline, ___: Show) -> Answer:
        await go.wait()
        return ANSWER

    async with serving(tmp_path, Scripted(wait)) as found:
        health = health_pb2_grpc.HealthStub(found.channel)
        old = asyncio.ensure_future(found.stub.Complete(ask(trigger=pb.TRIGGER_MANUAL)))
        await until(lambda: len(found.completer.queries) == 1)
        stop = asyncio.create_task(found.server.stop())
        await asyncio.sleep(0.05)
        assert (await failure(found.stub.Complete(ask()))).code() == grpc.StatusCode.UNAVAILABLE
        ready = await health.Check(health_pb2.HealthCheckRequest(service="keyahead.v1.Autocomplete"))
        alive = await health.Check(health_pb2.HealthCheckRequest())
        assert (ready.status, alive.status) == (health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING)
        assert not found.completer.released
        go.set()
        assert (await old).text == ANSWER.text
        await stop
        assert found.completer.released


@pytest.mark.parametrize("method", ["Complete", "StreamComplete", "Report"])
async def test_a_call_without_a_message_is_invalid_and_not_left_waiting(running: Running, method: str) -> None:
    """As one is whose frame says that more would come."""
    call = running.channel.stream_stream(f"/keyahead.v1.Autocomplete/{method}")(timeout=10)
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_calls_are_taken_until_whoever_asks_for_health_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that does not know yet sends them here; only then are they refused."""
    telling, told = asyncio.Event(), asyncio.Event()

    async def tell(_: Health) -> None:
        telling.set()
        await told.wait()

    monkeypatch.setattr(Health, "told", tell)
    async with serving(tmp_path, Scripted()) as found:
        stop = asyncio.create_task(found.server.stop())
        await asyncio.wait_for(telling.wait(), 10)
        assert (await found.stub.Complete(ask())).text == ANSWER.text
        told.set()
        await stop
        assert (await failure(found.stub.Complete(ask()))).code() == grpc.StatusCode.UNAVAILABLE


async def test_a_taken_port_is_one_sentence_that_names_its_variable(running: Running, tmp_path: Path) -> None:
    """Two servers never share a port without a word, which is grpc's default."""
    for settings_, variable in (
        ({"grpc_port": running.server.port}, "KEYAHEAD_GRPC_PORT"),
        ({"metrics_port": running.server.metrics_port}, "KEYAHEAD_METRICS_PORT"),
    ):
        with pytest.raises(StartError, match=f"in use.*{variable}") as caught:
            async with serving(tmp_path, Scripted(), **settings_):
                pass
        assert "\n" not in str(caught.value)
