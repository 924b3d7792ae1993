"""How the commands talk to a running service: one channel, and failures as sentences that name the cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated, Self, cast

import grpc
import typer
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from keyahead.cli.output import CommandError
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

AddressOption = Annotated[str, typer.Option("--address", envvar="KEYAHEAD_ADDRESS", help="Host and port of the running service.")]
DEFAULT_ADDRESS = "127.0.0.1:50551"
"""Where `keyahead up` serves unless told otherwise."""

_OPTIONS = [
    ("grpc.max_send_message_length", 4 << 20),  # A document may have 1 MiB, and 16 context files come on top.
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # 2 min by default; `watch` outlives the service's restarts.
]


class ServiceError(CommandError):
    """A call that brought no answer."""

    def __init__(self, sentence: str, code: grpc.StatusCode) -> None:
        super().__init__(sentence)
        self.code = code


class Client:
    """A connection to one service. Calls raise `ServiceError`."""

    def __init__(self, address: str) -> None:
        """Connects with the first call. `address` is host:port."""
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = pb_grpc.AutocompleteStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._channel.close()

    def complete(self, request: pb.CompleteRequest, timeout_s: float) -> pb.CompleteResponse:
        """Asks and waits."""
        with self._sentences():
            return self._stub.Complete(request, timeout=timeout_s)

    def stream(self, request: pb.CompleteRequest, timeout_s: float) -> Iterator[pb.StreamCompleteResponse]:
        """The events of a suggestion as it is decoded."""
        with self._sentences():
            yield from self._stub.StreamComplete(pb.StreamCompleteRequest(request=request), timeout=timeout_s)

    def start(self, request: pb.CompleteRequest, timeout_s: float, done: Callable[[pb.CompleteResponse | ServiceError], None]) -> None:
        """Asks without waiting; `done` is called from another thread, and never once the client is closed."""

        def finish(call: grpc.Future[pb.CompleteResponse]) -> None:
            if call.cancelled():
                return
            try:
                with self._sentences():
                    done(call.result())
            except ServiceError as error:
                done(error)

        self._stub.Complete.future(request, timeout=timeout_s).add_done_callback(finish)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)  # What a stub raises is both.
            raise ServiceError(_sentence(call, self._address), call.code()) from error


def _sentence(error: grpc.Call, address: str) -> str:
    """What went wrong and what to do, from the code and the rich details the service sends along."""
    status = rpc_status.from_call(error)
    if status is None and error.code() is grpc.StatusCode.UNAVAILABLE:  # Made by gRPC itself: nobody there, or gone in mid-call.
        return f"No service answers at {address}: start one with 'make run' or 'keyahead up', or name another with --address."
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "The service did not answer in time: try again, with a longer --timeout where the command has one."
    violations, retry_s = _details(status) if status else ([], None)
    reason = "; ".join(violations) or error.details() or "no reason given"
    hint = "" if retry_s is None else f"; try again in {retry_s:.1f} s"
    return f"The service refused with {error.code().name}: {reason}{hint}."


def _details(status: status_pb2.Status) -> tuple[list[str], float | None]:
    """The fields at fault, and the seconds after which to try again."""
    violations: list[str] = []
    retry_s = None
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for packed in status.details:
        if packed.Unpack(bad):
            violations += [f"{each.field}: {each.description}" for each in bad.field_violations]
        elif packed.Unpack(retry):
            retry_s = retry.retry_delay.ToTimedelta().total_seconds()
    return violations, retry_s
