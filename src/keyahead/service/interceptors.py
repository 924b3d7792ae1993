"""What happens around every call of our own service, outermost first: crash boundary, metrics and log, tenant, in-flight limit.

Health and reflection pass untouched, so they answer without a token and under overload. A call is refused before its message is decoded.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from keyahead.service.errors import Draining, Interrupted, MalformedMessage, Reason, Unauthenticated, problem_of, to_status
from keyahead.service.logs import describe
from keyahead.service.model import Overloaded, Superseded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from keyahead.service.metrics import Metrics
    from keyahead.service.model import Answer, Query
    from keyahead.service.tracing import CallTrace, Tracing

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
    Base: TypeAlias = grpc.aio.ServerInterceptor[Any, Any]
else:
    Base = grpc.aio.ServerInterceptor

OVERLOAD_RETRY_S = 0.2
"""Retry hint at the in-flight limit: by then, calls that keep their latency budget have made room."""
SESSION_RETRY_S = 5.0
"""Retry hint when too many sessions are open, which last for minutes."""
RECORD_AFTER_S = 0.003
"""How long after its end a call is counted and logged."""


@dataclass(slots=True)
class Call:
    """What is known about the call that this task works on."""

    method: str
    tenant: str = "default"
    query: Query | None = None
    """Once it has been read."""
    answer: Answer | None = None
    """Once it is known."""

    @property
    def trigger(self) -> str:
        """Who asked, if that is known."""
        return self.query.trigger.value if self.query else "unknown"

    def described(self) -> dict[str, str | int | float]:
        """For its log line and its trace: never text of a request or an answer."""
        facts: dict[str, str | int | float] = {"source": self.answer.source.value if self.answer else "none"}
        if query := self.query:
            facts["request_id"] = query.request_id
            facts["prefix_chars"] = len(query.prefix)
            facts["suffix_chars"] = len(query.suffix)
            facts["context_files"] = len(query.context)
        if answer := self.answer:
            facts["finish_reason"] = answer.finish_reason.value
            facts["prompt_tokens"] = answer.prompt_tokens
            facts["completion_tokens"] = answer.completion_tokens
        return facts


_current: ContextVar[Call] = ContextVar("keyahead_call")


def current_call() -> Call:
    """The call being handled; only inside a handler behind RequestMetrics."""
    return _current.get()


class Layer:
    """Something done around every call of our own service."""

    async def around(self, method: str, proceed: Behaviour, request: Any, context: Context) -> Any:
        """Work around one call; `proceed` goes on to the next layer or the handler."""
        raise NotImplementedError

    async def around_session(self, method: str, proceed: Behaviour, request: Any, context: Context) -> Any:
        """Work around one session; as around a call, unless it differs."""
        return await self.around(method, proceed, request, context)


class Layers(Base):
    """Puts layers, outermost first, around the calls of services whose name begins with `prefix`; handlers must be coroutines.

    A call whose client streams is a session: it may be idle for an hour, and what it asks for inside is counted there.
    """

    prefix = "/keyahead."

    def __init__(self, *layers: Layer) -> None:
        self._layers = layers
        self._handlers: dict[str, Handler] = {}
        """The wrapped ones, by path: grpc asks for a handler with every call, and gives the same one."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Called by grpc for each call."""
        path = str(handler_call_details.method)
        if path in self._handlers:
            return self._handlers[path]
        handler = await continuation(handler_call_details)
        if handler and path.startswith(self.prefix):  # None for an unknown method, to which grpc answers UNIMPLEMENTED.
            handler = self._handlers[path] = self._wrapped(handler, path.rpartition("/")[2])
        return handler

    def _wrapped(self, handler: Handler, method: str) -> Handler:
        streaming = handler.request_streaming
        decode: Any = handler.request_deserializer
        behaviour: Any = handler.stream_stream or handler.unary_stream or handler.unary_unary
        # Here, because grpc itself answers bad bytes with UNKNOWN.
        behaviour = (_decoding_each if streaming else _decoding)(decode, behaviour)
        for layer in reversed(self._layers):
            behaviour = partial(layer.around_session if streaming else layer.around, method, behaviour)
        if not streaming:
            behaviour = _reading(behaviour)
        build = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
        return build(behaviour, response_serializer=handler.response_serializer)


def _reading(behaviour: Behaviour) -> Behaviour:
    """Read a call's one message as those of a stream are read, and refuse a call that ends without it or inside it.

    grpc itself would answer such a call nothing, not before its deadline (grpcio 1.85.1): a wrong length of a browser's frame makes one.
    """

    async def call(_: Any, context: Context) -> Any:
        raw = await context.read()
        if raw is grpc.aio.EOF:  # type: ignore[attr-defined]  # grpc-stubs lacks it
            return await context.abort_with_status(to_status(problem_of(MalformedMessage())))  # type: ignore[attr-defined]  # and this
        return await behaviour(raw, context)

    return call


def _decoding(decode: Callable[[bytes], Any], behaviour: Behaviour) -> Behaviour:
    async def call(raw: bytes, context: Context) -> Any:
        return await behaviour(_decoded(decode, raw), context)

    return call


def _decoding_each(decode: Callable[[bytes], Any], behaviour: Behaviour) -> Behaviour:
    async def call(raws: AsyncIterator[bytes], context: Context) -> Any:
        return await behaviour((_decoded(decode, raw) async for raw in raws), context)

    return call


def _decoded(decode: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return decode(raw)
    except DecodeError:
        raise MalformedMessage from None


class CrashBoundary(Layer):
    """Turns whatever ends a call into a clean status: nothing reaches grpc but an answer, an abort or the client's own cancel."""

    async def around(self, method: str, proceed: Behaviour, request: Any, context: Context) -> Any:
        """Map every exception to its status."""
        try:
            return await proceed(request, context)
        except asyncio.CancelledError:
            if _client_gone():
                raise
            # Somebody cancelled shared work. grpc would send nothing at all, and the client would wait for its deadline.
            problem = problem_of(Interrupted())
        except Exception as error:  # noqa: BLE001  # the boundary: everything becomes a status
            problem = problem_of(error, secrets.token_hex(6))
            if problem.reason is Reason.INTERNAL:
                structlog.get_logger().error("internal error", method=method, error_id=problem.error_id, **describe(error))
        return await context.abort_with_status(to_status(problem))  # type: ignore[attr-defined]  # grpc-stubs lacks it


def _client_gone() -> bool:
    """Whether this call's own task was told to stop, rather than something it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class RequestMetrics(Layer):
    """Times each call, counts how it ended, writes its log line and, if it is sampled, its trace."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._tracing = tracing

    async def around(self, method: str, proceed: Behaviour, request: Any, context: Context) -> Any:
        """Observe one call."""
        trace = self._tracing.begin(method, context.invocation_metadata() or ()) if self._tracing else None
        with Observed(self._metrics, Call(method), trace):
            return await proceed(request, context)

    async def around_session(self, method: str, proceed: Behaviour, request: Any, context: Context) -> Any:
        """Count a session while it lasts; its suggestions are observed one by one."""
        _current.set(Call(method))
        with self._metrics.sessions.track_inprogress():
            return await proceed(request, context)


class Observed:
    """Time what is done for a call, count how it ends, write its log line and end its trace; `current_call` inside is this one."""

    def __init__(self, metrics: Metrics, call: Call, trace: CallTrace | None = None) -> None:
        self._metrics = metrics
        self._call = call
        self._trace = trace

    def __enter__(self) -> None:
        _current.set(self._call)
        self._started = time.perf_counter()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        elapsed_s = time.perf_counter() - self._started
        outcome = "ok" if error is None else _outcome(error)
        if isinstance(error, Superseded):
            self._metrics.superseded.inc()
        # When the answer has arrived: the client waits neither for our records nor for the processor that they take.
        asyncio.get_running_loop().call_later(RECORD_AFTER_S, self._record, outcome, elapsed_s)

    def _record(self, outcome: str, elapsed_s: float) -> None:
        """Count a call that has ended, write its log line and end its trace."""
        metrics, call = self._metrics, self._call
        facts = call.described()
        metrics.requests.labels(call.method, outcome, facts["source"], call.trigger).observe(elapsed_s)
        if call.answer:
            metrics.answered(call.answer)
        structlog.get_logger().info("call", method=call.method, outcome=outcome, elapsed_ms=round(elapsed_s * 1000, 1), **facts)
        if self._trace:
            self._trace.end(outcome, {"trigger": call.trigger, **facts}, call.answer.timings if call.answer else None)


def _outcome(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled" if _client_gone() else "unavailable"
    return problem_of(error).code.name.lower() if isinstance(error, Exception) else "ok"


class TenantAuth(Layer):
    """Finds the tenant from the bearer token, and from nothing else that a client sends.

    Where users are kept apart, tenant/user is what stands for the tenant from here on: in the cache, the engine and the sessions.
    """

    def __init__(self, tokens: Sequence[tuple[str, bytes]]) -> None:
        """Tenants and their tokens' SHA-256 digests; none means that everybody is the tenant `default`."""
        self._tokens = tuple(tokens)

    async def around(self, method: str, proceed: Behaviour, request: Any, context: Context) -> Any:  # noqa: ARG002
        """Set the call's tenant or refuse it."""
        if self._tokens:
            current_call().tenant = self.tenant_of(context.invocation_metadata() or ())
        return await proceed(request, context)

    def tenant_of(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The tenant whose token the metadata carries. Raises Unauthenticated."""
        given = [value for key, value in metadata if key == "authorization"]
        if len(given) != 1 or not isinstance(given[0], str) or not given[0].startswith("Bearer "):
            raise Unauthenticated
        digest = hashlib.sha256(given[0].removeprefix("Bearer ").encode()).digest()
        # Every digest is compared, each in constant time, so that timing tells nothing about which tenant exists.
        found = [tenant for tenant, known in self._tokens if hmac.compare_digest(digest, known)]
        if not found:
            raise Unauthenticated
        return found[0]


class InFlightLimit(Layer):
    """The hard stop: refuses calls beyond a number, and all new ones once draining. Idle sessions have a number of their own."""

    def __init__(self, limit: int, max_sessions: int, metrics: Metrics) -> None:
        self._limit = limit
        self._max_sessions = max_sessions
        self._running = 0
        self._sessions = 0
        self.draining = asyncio.Event()
        """Set once the server shuts down: a session ends by it."""
        self._idle = asyncio.Event()
        metrics.in_flight.set_function(lambda: self._running)

    async def around(self, method: str, proceed: Behaviour, request: Any, context: Context) -> Any:  # noqa: ARG002
        """Count one call in and out."""
        with self:
            return await proceed(request, context)

    async def around_session(self, method: str, proceed: Behaviour, request: Any, context: Context) -> Any:  # noqa: ARG002
        """Count one session in and out. Raises Overloaded or Draining."""
        if self.draining.is_set():
            raise Draining
        if self._sessions >= self._max_sessions:
            raise Overloaded("too many sessions are open; try again soon", SESSION_RETRY_S)
        self._sessions += 1
        try:
            return await proceed(request, context)
        finally:
            self._sessions -= 1

    def __enter__(self) -> None:
        """Take a place. Raises Overloaded or Draining."""
        if self.draining.is_set():
            raise Draining
        if self._running >= self._limit:
            raise Overloaded("too many calls in flight; try again soon", OVERLOAD_RETRY_S)
        self._running += 1

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        self._running -= 1
        if self._running == 0:
            self._idle.set()

    async def drain(self, grace_s: float) -> bool:
        """Refuse new calls and wait for the running ones; whether all of them ended within the grace."""
        self.draining.set()
        if self._running == 0:
            return True
        self._idle.clear()
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            return False
        return True
