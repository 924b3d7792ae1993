"""OpenTelemetry traces of sampled calls, for an operator who has named a collector; without one, no exporter is even imported.

A span for each call, below it one for each stage it went through, and one for each of its requests to the engine with the engine's own
times. What a span says of a call is what its log line says: lengths, counts and names of ours, never text and never a tenant.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from keyahead.engine.contract import EngineResponse, Perf
from keyahead.service.metrics import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    from keyahead.service.config import ServiceConfig
    from keyahead.service.model import Timings

SERVICE: Final = "keyahead.v1.Autocomplete"
EXPORT_S: Final = 2.0
"""Longest wait for the collector, whose absence delays nothing else: spans wait in a bounded queue for a thread of their own."""
_MS: Final = 1_000_000
"""Nanoseconds."""

_call: ContextVar[CallTrace | None] = ContextVar("keyahead_trace", default=None)


class Tracing:
    """Decides which calls are traced and sends their spans away."""

    def __init__(self, exporter: SpanExporter, ratio: float) -> None:
        """`ratio` is the share of calls traced; a client that sends a `traceparent` has decided for its own."""
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # only for whoever traces
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        resource = Resource.create({"service.name": "keyahead", "service.version": version("keyahead")})
        self._provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio), resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, export_timeout_millis=EXPORT_S * 1000))
        self._tracer = self._provider.get_tracer("keyahead")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> CallTrace | None:
        """The trace of a call that has just arrived, for whatever this task and its children do; None if it is not sampled."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        given = {key: value for key, value in metadata if key in self._propagator.fields and isinstance(value, str)}
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method}
        parent, now_ns = self._propagator.extract(given), time.time_ns()
        span = self._tracer.start_span(f"{SERVICE}/{method}", parent, SpanKind.SERVER, attributes, start_time=now_ns)
        trace = CallTrace(self._tracer, span, now_ns) if span.is_recording() else None
        _call.set(trace)
        return trace

    def close(self) -> None:
        """Send what is left; waits for as long as an export may take."""
        self._provider.shutdown()


def open_tracing(config: ServiceConfig) -> Tracing | None:
    """Traces to the configured collector, if there is one."""
    if not config.otlp_endpoint:
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    insecure = config.otlp_endpoint.startswith("http://")
    return Tracing(OTLPSpanExporter(config.otlp_endpoint, insecure, timeout=EXPORT_S), config.trace_ratio)


class CallTrace:
    """The spans of one sampled call."""

    def __init__(self, tracer: Tracer, span: Span, began_ns: int) -> None:
        self._spans = _Spans(tracer, span)
        self._span = span
        self._began_ns = began_ns

    def end(self, outcome: str, facts: Mapping[str, str | int | float], timings: Timings | None) -> None:
        """The call has ended; `timings` of an answer become spans one behind the other, as its stages ran."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        at_ns = self._began_ns
        for stage in STAGES if timings else ():
            spent_ns = int(getattr(timings, stage) * _MS)
            if stage != "total" and spent_ns > 0:
                self._spans.add(stage, at_ns, at_ns + spent_ns)
                at_ns += spent_ns
        self._span.set_attributes({f"keyahead.{name}": value for name, value in {**facts, "outcome": outcome}.items()})
        self._span.set_status(StatusCode.OK if outcome == "ok" else StatusCode.ERROR)
        self._span.end()

    def engine(self, request_id: str) -> EngineTrace:
        """A request to the engine, which may outlive the call; `request_id` is the one that Triton's log has."""
        return EngineTrace(self._spans, request_id)


class EngineTrace:
    """The span of one request to the engine."""

    def __init__(self, spans: _Spans, request_id: str) -> None:
        self._spans = spans.below("engine", {"triton.request_id": request_id})
        self._began_ns = time.time_ns()
        self._tokens = 0
        self._perf: Perf | None = None
        self._ended = False

    def saw(self, item: EngineResponse | Exception | None) -> None:
        """A response; an exception or None is the end. The engine's own times come with its last response, and not after a stop."""
        if isinstance(item, EngineResponse):
            self._tokens += len(item.output_ids)
            self._perf = item.perf
        elif not self._ended:
            self._ended = True
            if self._perf:
                self._times(self._perf)
            self._spans.end({"keyahead.tokens": self._tokens})

    def _times(self, perf: Perf) -> None:
        # The engine's clock need not be ours: its times are told from the request's arrival on, and that follows its sending at once.
        moments = (perf.arrival_ns, perf.first_scheduled_ns, perf.first_token_ns, perf.last_token_ns)
        begin, scheduled, first, last = (self._began_ns + moment - perf.arrival_ns for moment in moments)
        blocks = {"keyahead.new_blocks": perf.new_blocks, "keyahead.reused_blocks": perf.reused_blocks}
        self._spans.add("engine.queue", begin, scheduled)
        self._spans.add("engine.prefill", scheduled, first, blocks)
        self._spans.add("engine.decode", first, last, {"keyahead.drafts": perf.drafts, "keyahead.accepted_drafts": perf.accepted_drafts})


class _Spans:
    """One span and what is put below it."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    def add(self, name: str, begin_ns: int, end_ns: int, attributes: dict[str, Any] | None = None) -> None:
        """A child that is over."""
        self._tracer.start_span(name, self._context, attributes=attributes, start_time=begin_ns).end(end_ns)

    def below(self, name: str, attributes: dict[str, Any]) -> _Spans:
        """A child that begins now."""
        return _Spans(self._tracer, self._tracer.start_span(name, self._context, attributes=attributes))

    def end(self, attributes: dict[str, Any]) -> None:
        """It is over, too."""
        self._span.set_attributes(attributes)
        self._span.end()


def engine_trace(request_id: str) -> EngineTrace | None:
    """A trace for a request to the engine that the current call has caused, if the call is sampled."""
    call = _call.get()
    return call.engine(request_id) if call else None
