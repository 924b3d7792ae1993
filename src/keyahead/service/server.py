"""The gRPC server: from a call to the completer and back, and the process around it from start-up to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc
import structlog
import uvloop
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from keyahead.engine.store import SetupError
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc
from keyahead.service import logs
from keyahead.service.adapters import TenantAdapters, open_adapters
from keyahead.service.config import read_tokens
from keyahead.service.errors import DeadlineMissed, InvalidRequest, Violation
from keyahead.service.garbage import settle
from keyahead.service.health import READINESS, Health
from keyahead.service.interceptors import RECORD_AFTER_S, Boundary, Call, InFlightLimit, Observed, TenantAuth, current_call
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, Deadline, Outcome, Query, Show, Trigger
from keyahead.service.pages import MetricsServer
from keyahead.service.reports import Reports
from keyahead.service.requests import Limits, to_query, to_response
from keyahead.service.session_messages import to_report
from keyahead.service.session_stream import SessionStream
from keyahead.service.tracing import open_tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from keyahead.service.config import ServiceConfig

    Context = grpc.aio.ServicerContext[Any, Any]

DRAIN_GRACE_S: Final = 5.0
"""Longest wait at shutdown for calls already running."""
FLUSH_S: Final = 0.2
"""Time for grpc to send the last answers; watchers of health, which never end by themselves, are cut off after it."""

SESSION_HEADER: Final = "x-session-id"
"""Metadata by which a proxy finds a session's service, and a stream its engine."""
_MESSAGE_SLACK: Final = 3 << 20
"""Bytes of a message beside its texts, enough that a document much too long still gets an error that names the field, not one of gRPC's."""


class Completer(Protocol):
    """The completion pipeline, as the server sees it."""

    @property
    def ready(self) -> bool:
        """Whether the engine is reachable and warm."""

    def at_hand(self, query: Query) -> Answer | None:
        """The answer if it takes no waiting; None if it does."""

    async def complete(self, query: Query, deadline: Deadline, show: Show) -> Answer:
        """The answer, by the deadline; cancelled when the client leaves. Meanwhile `show` may be given ghost text.

        Raises Superseded, EngineUnavailable or Overloaded.
        """

    def warm(self, query: Query) -> None:
        """Have the engine read a prompt before anybody asks."""

    def cool(self, query: Query) -> None:
        """End that."""

    def outcome(self, tenant: str, outcome: Outcome) -> None:
        """Count what became of a suggestion."""

    async def aclose(self) -> None:
        """Release what the completer holds."""


class StartError(Exception):
    """The service cannot start; one sentence with the cure."""


class Autocomplete(pb_grpc.AutocompleteServicer):
    """The methods of the API, and the host of its sessions; everything around a call is the interceptors'."""

    def __init__(
        self,
        config: ServiceConfig,
        completer: Completer,
        metrics: Metrics,
        in_flight: InFlightLimit,
        adapters: TenantAdapters | None = None,
    ) -> None:
        self._adapters = adapters or TenantAdapters()
        self._completer = completer
        self._metrics = metrics
        self._in_flight = in_flight
        self._reports = Reports()
        self.draining = in_flight.draining
        self._limits = Limits(config.max_document_bytes, config.max_context_bytes, config.max_context_files)
        self._model = pb.ModelInfo(name=config.model_name, version=config.model_version)
        self._max_s = config.max_deadline_ms / 1000
        self._reserve_s = config.reserve_ms / 1000
        self._automatic_s = config.latency_budget_ms / 1000

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:  # noqa: N802
        """One suggestion, once."""
        query = to_query(request, current_call().tenant, self._limits)
        # Without a coroutine of its own: of a hit, most is the time that code takes which the processor's caches have lost since the last.
        answer = self._at_hand(query) or await self._complete(query, context.time_remaining(), _ignore)
        return self._response(query, answer)

    async def StreamComplete(self, request: pb.StreamCompleteRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """The suggestion as it is decoded, then whole. A coroutine, not a generator: a cancel then always lands inside it."""

        async def show(text: str) -> None:
            await context.write(pb.StreamCompleteResponse(delta=text))

        if not request.HasField("request"):
            raise InvalidRequest([Violation("request", "is required")])
        query = to_query(request.request, current_call().tenant, self._limits, "request.")._replace(streamed=True)
        answer = self._at_hand(query) or await self._complete(query, context.time_remaining(), show)
        await context.write(pb.StreamCompleteResponse(done=self._response(query, answer)))

    async def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Edits in, suggestions out."""
        tenant = current_call().tenant
        home = next((str(value) for key, value in context.invocation_metadata() or () if key == SESSION_HEADER), "")
        await SessionStream(self, tenant, self._limits, self._model_of(tenant), home).run(requests, context.write)

    async def Report(self, request: pb.ReportRequest, context: Context) -> pb.ReportResponse:  # noqa: ARG002, N802
        """What became of a suggestion of a unary call."""
        outcome = self._reports.take(current_call().tenant, *to_report(request))
        if outcome is not None:
            self.record(current_call().tenant, outcome)
        return pb.ReportResponse(known=outcome is not None)

    def _model_of(self, tenant: str) -> pb.ModelInfo:
        version = self._adapters.version(tenant)
        return pb.ModelInfo(name=self._model.name, version=self._model.version + version) if version else self._model

    async def suggest(self, query: Query, seconds: float | None) -> Answer:
        """One suggestion of a session; to the limit, the metrics and the log it is a call.

        The rest of a suggestion, which nobody asked for and which may take its time, has a name of its own there.
        """
        call = Call("Session" if seconds is None else "SessionRest", query.tenant)
        with Observed(self._metrics, call), self._in_flight:
            return self._at_hand(query) or await self._complete(query, seconds, _ignore)

    def warm(self, query: Query) -> None:
        """Read a session's prompt before anybody asks."""
        self._completer.warm(query)

    def cool(self, query: Query) -> None:
        """End that."""
        self._completer.cool(query)

    def record(self, tenant: str, outcome: Outcome) -> None:
        """What became of a suggestion is known."""
        self._completer.outcome(tenant, outcome)

    def _response(self, query: Query, answer: Answer) -> pb.CompleteResponse:
        # Once it has been sent, and before anything else is read.
        asyncio.get_running_loop().call_soon(self._reports.remember, query, answer)
        return to_response(answer, query.request_id, self._model_of(query.tenant))

    def _at_hand(self, query: Query) -> Answer | None:
        call = current_call()
        call.query = query
        call.answer = self._completer.at_hand(query)
        return call.answer

    async def _complete(self, query: Query, remaining_s: float | None, show: Show) -> Answer:
        """Run the completer within the call's time, given the seconds left of the client's deadline, if it set one."""
        last_s = self._max_s if remaining_s is None else min(remaining_s, self._max_s)
        budget_s = last_s - self._reserve_s
        if query.trigger is Trigger.AUTOMATIC:
            budget_s = min(budget_s, self._automatic_s)
        try:
            async with asyncio.timeout(last_s) as limit:
                answer = await self._completer.complete(query, Deadline.after(budget_s), show)
        except TimeoutError:
            if limit.expired():
                raise DeadlineMissed from None
            raise
        current_call().answer = answer
        return answer


async def _ignore(_: str) -> None:
    return


class Server:
    """One service process's parts, wired."""

    def __init__(
        self,
        config: ServiceConfig,
        completer: Completer,
        metrics: Metrics,
        before_ready: Callable[[], None] | None = None,
        adapters: TenantAdapters | None = None,
    ) -> None:
        """`before_ready` is called once, before readiness is first published."""
        self._config = config
        self._completer = completer
        self._metrics = metrics
        self._health = Health(metrics, before_ready)
        self._in_flight = InFlightLimit(config.max_in_flight, config.max_sessions, metrics)
        self._tasks: list[asyncio.Task[None]] = []
        self._exits = contextlib.ExitStack()
        tokens = read_tokens(config.tokens_file, by_user=config.isolate_users) if config.tokens_file else ()
        self._tracing = open_tracing(config)
        self._grpc = grpc.aio.server(options=_channel_options(config))
        boundary = Boundary(metrics, TenantAuth(tokens), self._in_flight, self._tracing)
        service: Any = _ByName(self._grpc, boundary.around)
        pb_grpc.add_AutocompleteServicer_to_server(Autocomplete(config, completer, metrics, self._in_flight, adapters), service)
        others: Any = _ByName(self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, others)
        reflection.enable_server_reflection((READINESS, "grpc.health.v1.Health", reflection.SERVICE_NAME), others)
        self.port = 0
        self.metrics_port = 0

    async def start(self) -> None:
        """Listen on both ports and follow the engine's readiness. Raises StartError."""
        host = self._config.grpc_host
        self.port = self._listen(host, self._config.grpc_port)
        try:
            server = MetricsServer(self._metrics, host, self._config.metrics_port)
        except OSError as error:
            raise _cannot_listen(host, self._config.metrics_port, "metrics_port", error) from None
        self._exits.callback(server.close)
        self.metrics_port = server.port
        await self._health.publish(ready=False)
        await self._grpc.start()
        self._tasks = [
            asyncio.create_task(self._health.follow(lambda: self._completer.ready), name="readiness"),
            asyncio.create_task(self._metrics.watch_loop(), name="loop lag"),
        ]

    async def stop(self) -> None:
        """Withdraw readiness, refuse new calls once that is known, let running ones end within the grace, release everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._health.publish(ready=False)
        # A proxy that has not been told yet sends calls here. They are answered: who refuses at once has the least to do, so that a proxy
        # which bounds load may send the second try here, too.
        await self._health.told()
        # Whoever comes even now is refused; a stop would cut some off unanswered.
        if not await self._in_flight.drain(DRAIN_GRACE_S):
            structlog.get_logger().warning("grace over", reason="calls still running are cut off")
        await self._grpc.stop(FLUSH_S)
        await asyncio.sleep(RECORD_AFTER_S)  # The last calls' records.
        await self._completer.aclose()
        if self._tracing:
            await asyncio.to_thread(self._tracing.close)
        self._exits.close()

    def _listen(self, host: str, port: int) -> int:
        config = self._config
        address = f"{host}:{port}"
        try:
            # grpc reports a taken port in many lines of its own and hides the reason.
            _probe(host, port)
            if config.tls_cert is None or config.tls_key is None:
                return self._grpc.add_insecure_port(address)
            pair = (config.tls_key.read_bytes(), config.tls_cert.read_bytes())
            return self._grpc.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except (OSError, RuntimeError) as error:
            raise _cannot_listen(host, port, "grpc_port", error) from None


class _ByName:
    """A server to add a service to, whose methods are found by name only and have `around` put around them.

    For each method registered besides, grpc's server waits for the next call by itself, and with every call walks through all these waits
    (grpcio 1.85.1); an interceptor it would ask with every call.
    """

    def __init__(self, server: grpc.aio.Server, around: Callable[[str, Any], Any] = lambda _, handler: handler) -> None:
        self._server = server
        self._around = around

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Made below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the service."""
        around = {method: self._around(method, handler) for method, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, around),))


def _probe(host: str, port: int) -> None:
    """Raise OSError when nothing could listen there."""
    family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _cannot_listen(host: str, port: int, setting: str, error: Exception) -> StartError:
    why = error.strerror if isinstance(error, OSError) else "grpc cannot bind it"
    return StartError(f"cannot listen on {host}:{port} ({why}); free the port or choose another one with KEYAHEAD_{setting.upper()}")


def _channel_options(config: ServiceConfig) -> list[tuple[str, int]]:
    """Limits and timings of connections; grpc's defaults suit neither a public port nor editors that stay connected all day."""
    minute_ms = 60_000
    return [
        # On by default, and then two servers share a port without a word.
        ("grpc.so_reuseport", 0),
        # Far above what runs at once, which the in-flight limit bounds: a cancelled stream counts until it is cleaned up. A proxy that
        # cancels 50 calls of a connection at a time has 15 % of the next ones refused with 128, none with 1000 (measured, grpcio 1.85.1).
        ("grpc.max_concurrent_streams", 1000),
        ("grpc.max_receive_message_length", config.max_document_bytes + config.max_context_bytes + _MESSAGE_SLACK),
        ("grpc.max_send_message_length", 64 << 10),
        ("grpc.max_metadata_size", 8 << 10),
        ("grpc.max_connection_idle_ms", 10 * minute_ms),
        # Long-lived editors find new replicas.
        ("grpc.max_connection_age_ms", 30 * minute_ms),
        ("grpc.max_connection_age_grace_ms", minute_ms // 2),
        # Below the 300 s default: an editor may ping every 30 s without being sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", 5_000),
    ]


def run(config: ServiceConfig) -> None:
    """Serve with the real pipeline until SIGTERM or SIGINT; a service that cannot start exits with status 2 and one sentence."""
    logs.configure()
    try:
        if api_implementation.Type() != "upb":
            # The pure Python runtime can be driven into deep recursion by a message.
            raise StartError("protobuf runs without its C extension; reinstall protobuf and unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, open_adapters(config)))
    except (StartError, SetupError) as error:
        sys.stderr.write(f"keyahead: {error}\n")
        raise SystemExit(2) from None


async def _serve(config: ServiceConfig, adapters: TenantAdapters) -> None:
    # Here, because the pipeline imports this package's nouns and needs a running loop.
    from keyahead.service.pipeline import build  # noqa: PLC0415

    log = structlog.get_logger()
    if not config.cache_key:
        log.info("cache key", reason="KEYAHEAD_CACHE_KEY is not set: a random key for this process, so Redis entries are not shared")
        config = dataclasses.replace(config, cache_key=secrets.token_bytes(32))
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    metrics = Metrics(config.model_name, config.model_version)
    server = Server(config, build(config, metrics, adapters), metrics, settle, adapters)
    try:
        await server.start()
        log.info(
            "serving",
            address=f"{config.grpc_host}:{server.port}",
            metrics_address=f"{config.grpc_host}:{server.metrics_port}",
            config=config.redacted(),
        )
        await stop.wait()
        log.info("draining")
    finally:
        await server.stop()
