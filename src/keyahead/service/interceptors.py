"""What happens around every call of our own service, outermost first: crash boundary, metrics and log, tenant, in-flight limit.

Health and reflection pass untouched, so they answer without a token and under overload. A call is refused before its message is decoded.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from keyahead.service.errors import Draining, Interrupted, MalformedMessage, Reason, Unauthenticated, problem_of, to_status
from keyahead.service.garbage import time_to_collect
from keyahead.service.logs import describe
from keyahead.service.model import Overloaded, Superseded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence

    from keyahead.service.metrics import Metrics
    from keyahead.service.model import Answer, Query
    from keyahead.service.tracing import CallTrace, Tracing

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
    Decode: TypeAlias = Callable[[bytes], Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
    Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

OVERLOAD_RETRY_S = 0.2
"""Retry hint at the in-flight limit: by then, calls that keep their latency budget have made room."""
SESSION_RETRY_S = 5.0
"""Retry hint when too many sessions are open, which last for minutes."""
DEFAULT_TENANT = "default"
"""Everybody, where there are no tokens."""
RECORD_AFTER_S = 0.003
"""How long after its end a call is counted and logged."""


@dataclass(slots=True)
class Call:
    """What is known about the call that this task works on."""

    method: str
    tenant: str = DEFAULT_TENANT
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
    """The call being handled; only inside a handler within the boundary."""
    return _current.get()


class Boundary:
    """What is done around every call of our own service, outermost first: clean ends, metrics and log, tenant, in-flight limit.

    A call whose client streams is a session: it may be idle for an hour, and what it asks for inside is counted there.
    """

    def __init__(self, metrics: Metrics, auth: TenantAuth, limit: InFlightLimit, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._auth = auth
        self._limit = limit
        self._tracing = tracing

    def around(self, method: str, handler: Handler) -> Handler:
        """The handler of a method, which must be a coroutine, with all that around."""
        decode: Any = handler.request_deserializer
        behaviour: Any = handler.stream_stream or handler.unary_stream or handler.unary_unary
        wrap = self._session if handler.request_streaming else self._call
        build = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
        return build(wrap(method, decode, behaviour), response_serializer=handler.response_serializer)

    def _call(self, method: str, decode: Decode, behaviour: Behaviour) -> Behaviour:
        async def call(_: Any, context: Context) -> Any:
            # The one message is read as those of a stream are: grpc itself would answer a call that ends without it or inside it nothing,
            # not before its deadline (grpcio 1.85.1); a wrong length of a browser's frame makes one.
            raw = await context.read()
            try:
                trace = self._tracing.begin(method, _metadata(context)) if self._tracing else None
                with Observed(self._metrics, Call(method), trace) as observed:
                    observed.tenant = self._auth.tenant(context)
                    with self._limit:
                        return await behaviour(_decoded(decode, raw), context)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the boundary: everything becomes a status
                return await _refuse(method, error, context)

        return call

    def _session(self, method: str, decode: Decode, behaviour: Behaviour) -> Behaviour:
        async def session(raws: AsyncIterator[bytes], context: Context) -> Any:
            try:
                call = Call(method)
                _current.set(call)
                with self._metrics.sessions.track_inprogress():
                    call.tenant = self._auth.tenant(context)
                    with self._limit.session():
                        return await behaviour((_decoded(decode, raw) async for raw in raws), context)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # as above
                return await _refuse(method, error, context)

        return session


def _decoded(decode: Decode, raw: Any) -> Any:
    """The message; here, because grpc itself answers bad bytes with UNKNOWN. Raises MalformedMessage, also where there is none."""
    if raw is grpc.aio.EOF:  # type: ignore[attr-defined]  # grpc-stubs lacks it
        raise MalformedMessage
    try:
        return decode(raw)
    except DecodeError:
        raise MalformedMessage from None


def _metadata(context: Context) -> Metadata:
    return context.invocation_metadata() or ()


async def _refuse(method: str, error: BaseException, context: Context) -> Any:
    """End a call by a clean status: nothing reaches grpc but an answer, an abort or the client's own cancel."""
    if isinstance(error, Exception):
        problem = problem_of(error, secrets.token_hex(6))
        if problem.reason is Reason.INTERNAL:
            structlog.get_logger().error("internal error", method=method, error_id=problem.error_id, **describe(error))
    elif _client_gone():
        raise error
    else:
        # Somebody cancelled shared work. grpc would send nothing at all, and the client would wait for its deadline.
        problem = problem_of(Interrupted())
    return await context.abort_with_status(to_status(problem))  # type: ignore[attr-defined]  # grpc-stubs lacks it


def _client_gone() -> bool:
    """Whether this call's own task was told to stop, rather than something it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Observed:
    """Time what is done for a call, count how it ends, write its log line and end its trace; `current_call` inside is this one."""

    def __init__(self, metrics: Metrics, call: Call, trace: CallTrace | None = None) -> None:
        self._metrics = metrics
        self._call = call
        self._trace = trace

    def __enter__(self) -> Call:
        _current.set(self._call)
        self._started = time.perf_counter()
        return self._call

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
        with time_to_collect():
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


class TenantAuth:
    """Finds the tenant from the bearer token, and from nothing else that a client sends.

    Where users are kept apart, tenant/user is what stands for the tenant from here on: in the cache, the engine and the sessions.
    """

    def __init__(self, tokens: Sequence[tuple[str, bytes]]) -> None:
        """Tenants and their tokens' SHA-256 digests; none means that everybody is the tenant `default`."""
        self._tokens = tuple(tokens)

    def tenant(self, context: Context) -> str:
        """Whose call it is. Raises Unauthenticated."""
        return self.tenant_of(_metadata(context)) if self._tokens else DEFAULT_TENANT

    def tenant_of(self, metadata: Metadata) -> str:
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


class InFlightLimit:
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

    @contextmanager
    def session(self) -> Iterator[None]:
        """Count one session in and out. Raises Overloaded or Draining."""
        if self.draining.is_set():
            raise Draining
        if self._sessions >= self._max_sessions:
            raise Overloaded("too many sessions are open; try again soon", SESSION_RETRY_S)
        self._sessions += 1
        try:
            yield
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
