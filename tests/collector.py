"""A real OTLP receiver: the collector's gRPC service, which keeps what it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Every span received, and the attributes of who sent them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.sender: dict[str, str] = {}
        self.endpoint = ""

    def Export(self, request: Any, context: object) -> Any:
        for resource in request.resource_spans:
            self.sender = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        """All spans with this name."""
        return [span for span in self.spans if span.name == name]

    def below(self, parent: Span) -> dict[str, Span]:
        """The children of a span, by name."""
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}


def attributes(span: Span) -> dict[str, str | int]:
    """What a span says."""
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A receiver on a free port."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
