"""What surrounds a call: clean ends, metrics, tenants, limits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from keyahead.service.errors import Draining, Unauthenticated
from keyahead.service.interceptors import RECORD_AFTER_S, Boundary, Call, InFlightLimit, Observed, TenantAuth, current_call
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, EngineUnavailable, FinishReason, Overloaded, Source, Superseded

pytestmark = pytest.mark.asyncio(loop_scope="session")

Behaviour = Callable[[StringValue, Any], Awaitable[StringValue]]
TOKENS = [(tenant, hashlib.sha256(f"token of {tenant}".encode()).digest()) for tenant in ("acme", "beta")]


@asynccontextmanager
async def serving(
    behaviour: Behaviour, metrics: Metrics | None = None, tokens: Any = (), limit: int = 8
) -> AsyncIterator[Callable[..., Any]]:
    """A real server whose one method is `behaviour`; yields a callable that calls it."""
    metrics = metrics or Metrics()
    boundary = Boundary(metrics, TenantAuth(tokens), InFlightLimit(limit, 8, metrics))
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    methods = {"Call": boundary.around("Call", _handler(behaviour))}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("keyahead.test.Test", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.unary_unary("/keyahead.test.Test/Call", request_serializer=_serialize, response_deserializer=StringValue.FromString)
    await server.stop(None)


def _handler(behaviour: Behaviour) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=StringValue.FromString,
        response_serializer=StringValue.SerializeToString,
    )


def _serialize(message: StringValue | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


async def code_of(call: Awaitable[Any]) -> str:
    """How a call ended: OK or its code's name."""
    try:
        async with asyncio.timeout(10):
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def raising(error: BaseException) -> Behaviour:
    """A handler that ends with this exception."""

    async def behaviour(_: StringValue, __: Any) -> StringValue:
        raise error

    return behaviour


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Superseded(), "ABORTED"),
        (EngineUnavailable(), "UNAVAILABLE"),
        (Overloaded("full", 1), "RESOURCE_EXHAUSTED"),
        (ZeroDivisionError(), "INTERNAL"),
        (RecursionError(), "INTERNAL"),
        (TimeoutError(), "INTERNAL"),
        (StopAsyncIteration(), "INTERNAL"),
        (asyncio.CancelledError(), "UNAVAILABLE"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
async def test_whatever_ends_a_call_becomes_a_clean_status_at_once(error: BaseException, code: str) -> None:
    """Also a foreign CancelledError, after which grpc alone would leave a client without deadline waiting for ever."""
    metrics = Metrics()
    async with serving(raising(error), metrics) as call:
        assert await code_of(call(StringValue())) == code
    await asyncio.sleep(RECORD_AFTER_S)
    labels = {"method": "Call", "outcome": code.lower(), "source": "none", "trigger": "unknown"}
    assert metrics.registry.get_sample_value("keyahead_request_seconds_count", labels) == 1
    assert metrics.registry.get_sample_value("keyahead_superseded_total") == isinstance(error, Superseded)


async def test_a_future_that_somebody_else_cancels_is_not_the_client_s_cancel() -> None:
    """Calls that share one future all get an answer when it is cancelled."""
    shared: asyncio.Future[StringValue] = asyncio.get_running_loop().create_future()

    async def wait(_: StringValue, __: Any) -> StringValue:
        return await shared

    async with serving(wait) as call:
        calls = [asyncio.create_task(code_of(call(StringValue()))) for _ in range(3)]
        await asyncio.sleep(0.1)
        shared.cancel()
        assert await asyncio.gather(*calls) == ["UNAVAILABLE"] * 3


async def test_the_client_s_own_cancel_ends_the_handler_and_is_counted_as_such() -> None:
    """The handler sees CancelledError, the metrics see `cancelled`."""
    metrics, ended = Metrics(), asyncio.Event()

    async def hang(_: StringValue, __: Any) -> StringValue:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return StringValue()

    async with serving(hang, metrics) as call, asyncio.timeout(10):
        running = call(StringValue())
        await asyncio.sleep(0.1)
        running.cancel()
        await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await running
    await asyncio.sleep(RECORD_AFTER_S)
    labels = {"method": "Call", "outcome": "cancelled", "source": "none", "trigger": "unknown"}
    assert metrics.registry.get_sample_value("keyahead_request_seconds_count", labels) == 1


async def test_a_client_does_not_wait_for_the_records_of_its_call() -> None:
    """They are written when the answer has arrived, so that they do not take the processor from it; also when the call ends in an error."""
    metrics = Metrics()

    def counted(outcome: str) -> float | None:
        labels = {"method": "Call", "outcome": outcome, "source": "memory", "trigger": "unknown"}
        return metrics.registry.get_sample_value("keyahead_request_seconds_count", labels)

    def make(tokens: int, error: Exception | None = None) -> None:
        with Observed(metrics, Call("Call")):
            current_call().answer = Answer("text", FinishReason.STOP, Source.MEMORY, 0, tokens)
            if error:
                raise error

    make(3)
    with pytest.raises(Superseded):
        make(4, Superseded())
    assert (counted("ok"), counted("aborted")) == (None, None)
    await asyncio.sleep(RECORD_AFTER_S)
    assert (counted("ok"), counted("aborted")) == (1, 1)
    assert metrics.registry.get_sample_value("keyahead_tokens_total", {"kind": "completion"}) == 7


async def test_bytes_that_are_no_message_are_refused_and_never_unknown() -> None:
    """Grpc itself would answer UNKNOWN and quote the exception."""

    async def echo(request: StringValue, _: Any) -> StringValue:
        return request

    async with serving(echo) as call:
        assert await code_of(call(b"\xff\xff\xff")) == "INVALID_ARGUMENT"
        assert await code_of(call(b"\x0a\x02\xff\xff")) == "INVALID_ARGUMENT"
        assert (await call(StringValue(value="still here"))).value == "still here"


async def tell_tenant(_: StringValue, __: Any) -> StringValue:
    """A handler that answers with its tenant."""
    return StringValue(value=current_call().tenant)


async def test_the_tenant_comes_from_the_token_and_from_nothing_else() -> None:
    """Metadata in which a client names its tenant is ignored."""
    async with serving(tell_tenant, tokens=TOKENS) as call:
        for tenant in ("acme", "beta"):
            metadata = (("authorization", f"Bearer token of {tenant}"), ("tenant", "other"), ("x-tenant", "other"))
            assert (await call(StringValue(), metadata=metadata)).value == tenant
    async with serving(tell_tenant) as call:
        assert (await call(StringValue(), metadata=(("tenant", "other"),))).value == "default"


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer wrong"),),
        (("authorization", "Bearer "),),
        (("authorization", "token of acme"),),
        (("authorization", "Basic token of acme"),),
        (("authorization", "Bearer token of acme"), ("authorization", "Bearer token of beta")),
        (("authorization-bin", b"Bearer token of acme"),),
    ],
)
async def test_without_one_known_token_a_call_is_refused_before_its_message_is_read(metadata: Any) -> None:
    """Even a malformed message gets UNAUTHENTICATED: a stranger costs no decoding."""
    async with serving(tell_tenant, tokens=TOKENS) as call:
        assert await code_of(call(b"\xff\xff\xff", metadata=metadata)) == "UNAUTHENTICATED"


async def test_a_token_of_any_characters_is_compared_and_not_crashed_on() -> None:
    """Only the digest of the token matters."""
    auth = TenantAuth([("acme", hashlib.sha256("é".encode()).digest())])
    assert auth.tenant_of([("authorization", "Bearer é")]) == "acme"
    with pytest.raises(Unauthenticated):
        auth.tenant_of([("authorization", "Bearer è")])


async def test_calls_beyond_the_limit_are_refused_and_the_places_come_back() -> None:
    """The gauge follows; after a refusal the running ones end well and new ones are served."""
    metrics, go = Metrics(), asyncio.Event()

    async def wait(request: StringValue, _: Any) -> StringValue:
        await go.wait()
        return request

    async with serving(wait, metrics, limit=2) as call:
        running = [asyncio.create_task(code_of(call(StringValue()))) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert metrics.registry.get_sample_value("keyahead_requests_in_flight") == 2
        assert await code_of(call(StringValue())) == "RESOURCE_EXHAUSTED"
        go.set()
        assert await asyncio.gather(*running) == ["OK", "OK"]
        assert await code_of(call(StringValue())) == "OK"
        assert metrics.registry.get_sample_value("keyahead_requests_in_flight") == 0


async def test_draining_refuses_new_calls_and_waits_for_running_ones() -> None:
    """It tells whether all of them ended within the grace."""
    limit = InFlightLimit(2, 2, Metrics())

    async def call() -> None:
        with limit:
            await asyncio.sleep(0.03)

    running = asyncio.create_task(call())
    await asyncio.sleep(0)
    assert await limit.drain(0.01) is False
    with pytest.raises(Draining), limit:
        pass
    assert await limit.drain(5) is True
    await running


async def test_the_boundary_lets_the_call_s_own_cancel_through() -> None:
    """Its task ends as cancelled, and nothing is sent to a client that has left."""

    class Context:
        """Of a call whose message has come; nothing can be sent."""

        async def read(self) -> bytes:
            return b""

    async def hang(_: StringValue, __: Any) -> StringValue:
        await asyncio.sleep(60)
        return StringValue()

    boundary = Boundary(Metrics(), TenantAuth(()), InFlightLimit(1, 1, Metrics()))
    handler: Any = boundary.around("Call", _handler(hang)).stream_unary
    task = asyncio.create_task(handler(None, Context()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(2 * RECORD_AFTER_S)  # Its log line is none of the next test's.
