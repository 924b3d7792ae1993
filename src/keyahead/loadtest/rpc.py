"""keyahead's API as the load test uses it: requests from questions, answers from responses."""

from __future__ import annotations

import grpc

from keyahead.loadtest.judge import Answer, Ask, Failed, Superseded
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

TIMEOUT_S = 2.0
"""Deadline of a call. An order above the promise, so that late answers are seen to be late rather than lost. Nothing is ever cancelled:
a newer question supersedes the older on the server, and gRPC's client leaks memory with each cancelled call (grpc issue 43360)."""
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
"""A connection for each channel, as editors have; else all channels of a process would share one."""
SESSION_HEADER = "x-session-id"
"""By this, a proxy before several services sends all of a session to the same one (docs/envoy.md)."""
_UNFINISHED = (pb.FINISH_REASON_PARTIAL, pb.FINISH_REASON_DEADLINE)


def channel(address: str) -> grpc.Channel:
    """A connection of one's own."""
    return grpc.insecure_channel(address, options=list(CHANNEL_OPTIONS))


def metadata(session_id: str) -> tuple[tuple[str, str], ...]:
    """What goes with each call and stream of a session."""
    return ((SESSION_HEADER, session_id),)


def request(ask: Ask, session_id: str) -> pb.CompleteRequest:
    """What a plugin sends for a question."""
    document = pb.Document(path=ask.passage.path, language=ask.passage.language, split=pb.SplitText(prefix=ask.prefix, suffix=ask.suffix))
    return pb.CompleteRequest(document=document, trigger=pb.TRIGGER_AUTOMATIC, session_id=session_id)


def answer(response: pb.CompleteResponse) -> Answer:
    """What a response says."""
    stages = {field.name: getattr(response.timings_ms, field.name) for field in pb.StageTimings.DESCRIPTOR.fields}
    return Answer(
        text=response.text,
        source=pb.Source.Name(response.source).removeprefix("SOURCE_").lower(),
        unfinished=response.finish_reason in _UNFINISHED,
        stages_ms=stages,
        tokens_in=response.tokens.prompt,
        tokens_out=response.tokens.completion,
    )


def no_answer(code: grpc.StatusCode) -> Superseded | Failed:
    """What an error means."""
    return Superseded() if code is grpc.StatusCode.ABORTED else Failed(code.name)


class AioSystem:
    """A keyahead service for the plain driver. Each typist is a session."""

    def __init__(self, channel: grpc.aio.Channel, run_id: str) -> None:
        """`run_id` keeps the sessions of two runs apart."""
        self._stub = pb_grpc.AutocompleteStub(channel)
        self._run_id = run_id

    async def __call__(self, typist: int, ask: Ask) -> Answer:
        """Ask the service. Raises Superseded and Failed."""
        try:
            session_id = f"{self._run_id}.{typist}"
            response = await self._stub.Complete(request(ask, session_id), timeout=TIMEOUT_S, metadata=metadata(session_id))
        except grpc.aio.AioRpcError as error:
            raise no_answer(error.code()) from None
        return answer(response)
