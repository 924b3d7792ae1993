"""Traces of sampled calls, as a collector gets them; nothing at all when there is none."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from keyahead.engine.contract import EngineResponse, Perf
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc
from keyahead.service.config import ServiceConfig
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, Deadline, FinishReason, Outcome, Query, Show, Source, Superseded, Timings
from keyahead.service.server import Server
from keyahead.service.tracing import SERVICE, engine_trace
from tests.collector import Collector, attributes, collecting

pytestmark = pytest.mark.asyncio(loop_scope="session")

TIMINGS = Timings(admit=1, cache=2, first_token=30, decode=50, total=83)
PERF = Perf(arrival_ns=7_000_000, first_scheduled_ns=9_000_000, first_token_ns=20_000_000, last_token_ns=60_000_000, reused_blocks=4)
SAMPLED, NOT_SAMPLED = (f"00-{'ab' * 16}-{'cd' * 8}-{flag}" for flag in ("01", "00"))
TENANT, SECRET = "acme-gmbh", "secret_source_text"


class Completer:
    """Asks an engine that answers in two parts, as the pipeline would: in a task of its own."""

    ready = True

    def at_hand(self, query: Query) -> Answer | None:
        return None

    async def complete(self, query: Query, deadline: Deadline, show: Show) -> Answer:
        if query.request_id == "old":
            raise Superseded
        await asyncio.create_task(self._ask())
        return Answer(SECRET, FinishReason.STOP, Source.ENGINE, 30, 5, TIMINGS)

    async def _ask(self) -> None:
        trace = engine_trace("d1")
        for item in (EngineResponse((1, 2)), EngineResponse((3,), None, PERF), None, None):
            if trace:
                trace.saw(item)

    def warm(self, query: Query) -> None:
        raise AssertionError

    def cool(self, query: Query) -> None:
        raise AssertionError

    def outcome(self, tenant: str, outcome: Outcome) -> None:
        raise AssertionError

    async def aclose(self) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver, and what it has got when the service has stopped."""
    with collecting() as collector:
        yield collector


async def call(collector: Collector, tmp_path: Path, *, ratio: float = 1, traceparent: str = "", request_id: str = "r1") -> None:
    """One call of a service that then stops."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TENANT}:{hashlib.sha256(b'token').hexdigest()}\n")
    config = ServiceConfig(
        grpc_port=0, metrics_port=0, model_folder=tmp_path, tokens_file=tokens, otlp_endpoint=collector.endpoint, trace_ratio=ratio
    )
    server = Server(config, Completer(), Metrics())
    await server.start()
    request = pb.CompleteRequest(document=pb.Document(path="a.py", split=pb.SplitText(prefix=SECRET)), request_id=request_id)
    metadata = [("authorization", "Bearer token"), *([("traceparent", traceparent)] if traceparent else [])]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        running = pb_grpc.AutocompleteStub(channel).Complete(request, metadata=metadata, timeout=10)
        assert await running.code() is (grpc.StatusCode.ABORTED if request_id == "old" else grpc.StatusCode.OK)
    await server.stop()


async def test_a_call_s_trace_goes_from_the_client_s_span_to_the_engine_s_own_times(collector: Collector, tmp_path: Path) -> None:
    """One trace, whose parts lie where they happened."""
    await call(collector, tmp_path, traceparent=SAMPLED)
    (root,) = collector.named(f"{SERVICE}/Complete")
    assert {span.trace_id.hex() for span in collector.spans} == {"ab" * 16}
    assert root.parent_span_id.hex() == "cd" * 8
    stages = collector.below(root)
    assert set(stages) == {"admit", "cache", "first_token", "decode", "engine"}
    assert stages["decode"].start_time_unix_nano == root.start_time_unix_nano + 33_000_000
    assert stages["decode"].end_time_unix_nano - stages["decode"].start_time_unix_nano == 50_000_000
    engine = collector.below(stages["engine"])
    spent = {name: (span.end_time_unix_nano - span.start_time_unix_nano) // 1_000_000 for name, span in engine.items()}
    assert spent == {"engine.queue": 2, "engine.prefill": 11, "engine.decode": 40}
    assert attributes(stages["engine"])["keyahead.tokens"] == 3
    assert attributes(engine["engine.prefill"])["keyahead.reused_blocks"] == 4


async def test_a_trace_says_what_the_log_says_and_holds_neither_text_nor_tenant(collector: Collector, tmp_path: Path) -> None:
    """Lengths and counts, and how it ended."""
    await call(collector, tmp_path)
    (root,) = collector.named(f"{SERVICE}/Complete")
    said = attributes(root)
    assert (said["keyahead.prefix_chars"], said["keyahead.completion_tokens"], said["keyahead.outcome"]) == (len(SECRET), 5, "ok")
    assert (said["keyahead.trigger"], said["keyahead.source"], said["keyahead.request_id"]) == ("automatic", "engine", "r1")
    assert collector.sender["service.name"] == "keyahead"
    everything = "".join(map(str, collector.spans))
    assert SECRET not in everything
    assert TENANT not in everything


async def test_a_call_that_fails_has_a_trace_of_its_own(collector: Collector, tmp_path: Path) -> None:
    """Marked as an error, with the outcome, without stages."""
    await call(collector, tmp_path, request_id="old")
    (root,) = collector.spans
    assert (root.status.code, attributes(root)["keyahead.outcome"]) == (root.status.STATUS_CODE_ERROR, "aborted")


@pytest.mark.parametrize(
    ("ratio", "traceparent", "spans"),
    [(0, "", False), (0, SAMPLED, True), (1, NOT_SAMPLED, False), (1, "nonsense", True), (0, "nonsense", False)],
)
async def test_the_client_decides_for_its_own_traces_and_the_ratio_for_the_others(
    collector: Collector, tmp_path: Path, ratio: float, traceparent: str, spans: bool
) -> None:
    """A traceparent that cannot be read is none."""
    await call(collector, tmp_path, ratio=ratio, traceparent=traceparent)
    assert bool(collector.spans) is spans


async def test_without_an_endpoint_nothing_is_loaded_that_could_call_out() -> None:
    """No exporter is imported, and no provider is set whose spans some library could fill. (redis imports the API by itself.)"""
    script = """
import sys
from pathlib import Path
from keyahead.service import pipeline, server, tracing
from keyahead.service.config import ServiceConfig
assert tracing.open_tracing(ServiceConfig(model_folder=Path("."))) is None
assert not [name for name in sys.modules if name.startswith("opentelemetry.exporter")]
assert "opentelemetry.sdk.trace.export" not in sys.modules
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == 0
