"""A scripted service on a loopback port, for the commands to talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

Answer = Callable[[pb.CompleteRequest, grpc.ServicerContext], pb.CompleteResponse]


class ScriptedService(pb_grpc.AutocompleteServicer):
    """Answers as a test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[pb.CompleteRequest] = []
        self.session_ids: list[str] = []
        """What each request had as metadata for a proxy."""
        self.streams: list[list[pb.SessionRequest]] = []
        """What each session said."""
        self.deltas: tuple[str, ...] = ()
        self.address = "127.0.0.1:0"
        self._server: grpc.Server | None = None
        self.answers(lambda _request: "pass")

    def answers(self, text: Callable[[pb.CompleteRequest], str]) -> None:
        """From now on answers a request with this text."""
        self.behaves(lambda request, _context: self._response(text(request)))

    def behaves(self, answer: Answer) -> None:
        """From now on does this on a request."""
        self._answer = answer

    def Complete(self, request: pb.CompleteRequest, context: grpc.ServicerContext) -> pb.CompleteResponse:
        """One answer."""
        self.requests.append(request)
        self._note_session(context)
        return self._answer(request, context)

    def StreamComplete(self, request: pb.StreamCompleteRequest, context: grpc.ServicerContext) -> Iterator[pb.StreamCompleteResponse]:
        """The deltas, then the answer."""
        yield from (pb.StreamCompleteResponse(delta=delta) for delta in self.deltas)
        yield pb.StreamCompleteResponse(done=self.Complete(request.request, context))

    def Session(self, requests: Iterator[pb.SessionRequest], context: grpc.ServicerContext) -> Iterator[pb.SessionResponse]:
        """A suggestion of nothing for each edit and question; ends after four messages."""
        stream: list[pb.SessionRequest] = []
        self.streams.append(stream)
        self._note_session(context)
        for request in requests:
            stream.append(request)
            asked = request.edit if request.HasField("edit") else request.ask
            if asked.document_id:
                suggestion = pb.Suggestion(document_id=asked.document_id, version=asked.version, completion=self._response(""))
                yield pb.SessionResponse(suggestion=suggestion)
            if len(stream) == 4:
                return

    def _note_session(self, context: grpc.ServicerContext) -> None:
        self.session_ids += [str(value) for name, value in context.invocation_metadata() if name == "x-session-id"]

    def start(self) -> None:
        """Serves, at the port it had before if it was stopped."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_AutocompleteServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(self.address)}"
        self._server.start()

    def stop(self) -> None:
        """Ends every call and frees the port."""
        assert self._server
        self._server.stop(None).wait()

    def _response(self, text: str) -> pb.CompleteResponse:
        return pb.CompleteResponse(
            request_id="r1",
            text=text,
            finish_reason=pb.FINISH_REASON_STOP,
            source=pb.SOURCE_IN_FLIGHT,
            model=pb.ModelInfo(name="scripted", version="0123456789ab"),
            tokens=pb.TokenCounts(prompt=7, completion=3),
            timings_ms=pb.StageTimings(prompt=0.25, total=12.5),
        )


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    """A running scripted service."""
    scripted = ScriptedService()  # type: ignore[abstract]  # no command reports
    scripted.start()
    yield scripted
    scripted.stop()
