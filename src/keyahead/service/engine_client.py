"""A service's one connection to a Triton: every request for it on one ModelStreamInfer stream.

One stream, because opening a call costs more than a message, and because grpc.aio leaks about 1 KB for each call a client cancels
(grpc#43360): here a request is cancelled by a `stop` message with its id, as the contract has it, and the call stays.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import grpc

from keyahead.engine.adapters import Adapter
from keyahead.engine.contract import (
    NOT_CACHED,
    ContractError,
    EngineRequest,
    EngineResponse,
    decode_response,
)
from keyahead.proto.inference import triton_pb2
from keyahead.service.adapters import TenantAdapters
from keyahead.service.engine_wire import to_arrays, to_message, with_adapter
from keyahead.service.model import EngineUnavailable, Overloaded
from keyahead.service.tracing import engine_trace

if TYPE_CHECKING:
    Call = grpc.aio.StreamStreamCall[bytes, triton_pb2.ModelStreamInferResponse]

log = logging.getLogger(__name__)

PING_PERIOD_S = 0.5
PING_TIMEOUT_S = 3.0
"""Longest silence of a healthy engine, far above any step's time."""
RECONNECT_S = 0.25
_RETRY_AFTER_S = 1.0
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
"""Called by its name, with messages that are bytes already: the generated stub would turn them into bytes on the event loop."""
_QUEUE_FULL = ("RESOURCE_EXHAUSTED", "Exceeds maximum queue size", "Maximum queue size of")
"""How our own engines, Triton's scheduler (core, scheduler_utils.cc) and TensorRT-LLM's executor (executorImpl.cpp) begin to say so."""
# An adapter's weights are as large as the operator has made them.
_OPTIONS = (("grpc.max_receive_message_length", 1 << 20), ("grpc.max_send_message_length", -1))


class EngineError(Exception):
    """The engine refused or ended a request; the message is its own."""


class Decode:
    """One request on the stream: iterate over its responses, or `stop` it."""

    def __init__(self, client: EngineClient, request_id: str, request: EngineRequest) -> None:
        self._client = client
        self._id = request_id
        self.request = request
        self.has_weights = False
        """Whether its adapter's weights have gone with it."""
        self._trace = engine_trace(request_id)
        self._responses: asyncio.Queue[EngineResponse | Exception | None] = asyncio.Queue()

    def put(self, item: EngineResponse | Exception | None) -> None:
        """Called by the stream's reader; None is the end."""
        if self._trace:
            self._trace.saw(item)
        self._responses.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[EngineResponse]:
        while (item := await self._responses.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self) -> None:
        """Let the engine drop the request within a step; no more responses come."""
        self._client.stop(self._id)


class EngineClient:
    """Keeps the stream open, knows whether the engine answers, and sorts responses to their requests."""

    def __init__(self, address: str, adapters: TenantAdapters | None = None) -> None:
        self._address = address
        self._adapters = adapters or TenantAdapters()
        self._introduced: set[int] = set()
        """Adapters whose weights have been sent on this stream; the engine may have forgotten them since."""
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        """Messages as they go on the wire."""
        self._introducing = asyncio.Lock()
        self._introductions: set[asyncio.Task[None]] = set()
        """Requests that wait for their adapter's weights to be prepared, one at a time."""
        self._decodes: dict[str, Decode] = {}
        self._ids = itertools.count(1)
        self._pong = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.ready = False
        self.on_ready: Callable[[], None] | None = None
        """Called when the engine answers, for the first time or again."""

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return bool(self._decodes)

    def start(self) -> None:
        """Begin to connect; `ready` tells when the engine answers."""
        self._tasks = [asyncio.create_task(self._keep_connected(), name="engine-stream")]

    async def aclose(self) -> None:
        """Fail what is in flight and close the stream."""
        tasks = [*self._tasks, *self._introductions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_all("the service is shutting down")

    def decode(self, request: EngineRequest) -> Decode:
        """Send a request, with its tenant's adapter; EngineUnavailable at once when the engine does not answer."""
        if not self.ready:
            raise EngineUnavailable("the engine is not ready")
        request_id = f"d{next(self._ids)}"
        adapter = self._adapters.of(request.namespace)
        if adapter is not None:
            request = dataclasses.replace(request, lora_task_id=adapter.task_id)
        decode = self._decodes[request_id] = Decode(self, request_id, request)
        if adapter is None or adapter.task_id in self._introduced:
            self._outgoing.put_nowait(to_message(request_id, request).SerializeToString())
        else:
            self._introduce(request_id, decode, adapter)
        return decode

    def _introduce(self, request_id: str, decode: Decode, adapter: Adapter, *, again: bool = False) -> None:
        task = asyncio.create_task(self._send_weights(request_id, decode, adapter, again=again), name="adapter-weights")
        self._introductions.add(task)
        task.add_done_callback(self._introductions.discard)

    async def _send_weights(self, request_id: str, decode: Decode, adapter: Adapter, *, again: bool) -> None:
        """Send a request with its adapter's weights, copied by a thread; without them if they have gone while it waited for its turn.

        One that has been stopped by then is not sent, nor is one of a stream that is lost.
        """
        async with self._introducing:
            if request_id not in self._decodes:
                return
            message = to_message(request_id, decode.request)
            if adapter.task_id in self._introduced and not again:
                data = message.SerializeToString()
            else:
                data = await asyncio.to_thread(_joined, with_adapter(message, adapter))
                decode.has_weights = True
            if request_id in self._decodes:
                self._introduced.add(adapter.task_id)
                self._outgoing.put_nowait(data)

    def stop(self, request_id: str) -> None:
        """End a request that is still running."""
        decode = self._decodes.pop(request_id, None)
        if decode is not None:
            decode.put(None)
            self._outgoing.put_nowait(to_message(request_id, EngineRequest(stop=True)).SerializeToString())

    async def _keep_connected(self) -> None:
        while True:
            try:
                async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
                    await self._run_stream(channel)
            except* (grpc.RpcError, TimeoutError) as errors:
                (log.warning if self.ready else log.debug)("engine stream lost: %s", type(errors.exceptions[0]).__name__)
            finally:
                self.ready = False
                self._fail_all("the engine is gone")
            await asyncio.sleep(RECONNECT_S)

    async def _run_stream(self, channel: grpc.aio.Channel) -> None:
        self._outgoing = asyncio.Queue()
        self._introduced = set()
        open_stream = channel.stream_stream(_METHOD, None, response_deserializer=triton_pb2.ModelStreamInferResponse.FromString)
        call: Call = open_stream(self._requests())
        async with asyncio.TaskGroup() as group:
            pinger = group.create_task(self._ping())
            try:
                async for response in call:
                    self._receive(response)
            finally:
                pinger.cancel()
                call.cancel()
        raise TimeoutError  # Triton ended the stream by itself.

    async def _requests(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._outgoing.get()

    async def _ping(self) -> None:
        """A stop of nothing is answered by the model itself: it tells that the engine's process lives."""
        while True:
            self._pong.clear()
            self._outgoing.put_nowait(to_message("ping", EngineRequest(stop=True)).SerializeToString())
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._pong.wait()
            if not self.ready and self.on_ready:
                self.on_ready()
            self.ready = True
            await asyncio.sleep(PING_PERIOD_S)

    def _receive(self, response: triton_pb2.ModelStreamInferResponse) -> None:
        inner = response.infer_response
        if inner.id == "ping":
            if response.error_message and not _is_queue_full(response.error_message):
                raise TimeoutError
            self._pong.set()  # Too busy even for a ping is alive.
            return
        decode = self._decodes.get(inner.id)
        if decode is None:
            return
        final = inner.parameters["triton_final_response"].bool_param
        adapter = self._adapters.of(decode.request.namespace)
        if NOT_CACHED in response.error_message and adapter is not None and not decode.has_weights:
            self._introduce(inner.id, decode, adapter, again=True)  # The engine has forgotten the adapter; once more, and once only.
            return
        if response.error_message:
            decode.put(_error(response.error_message))
            final = True
        elif inner.outputs:
            try:
                decode.put(decode_response(to_arrays(inner)))
            except ContractError as error:
                decode.put(EngineError(str(error)))
                final = True
        if final:
            decode.put(None)
            del self._decodes[inner.id]

    def _fail_all(self, reason: str) -> None:
        for decode in self._decodes.values():
            decode.put(EngineUnavailable(reason))
        self._decodes.clear()


def _is_queue_full(message: str) -> bool:
    return any(each in message for each in _QUEUE_FULL)


def _error(message: str) -> Exception:
    """The engine prefixes its own errors with a code; what Triton says when the engine's process is gone has none."""
    if _is_queue_full(message):
        return Overloaded("the engine's queue is full", _RETRY_AFTER_S)
    known = ("INVALID_ARGUMENT", "CANCELLED", "DEADLINE_EXCEEDED")
    return EngineError(message) if any(code in message for code in known) else EngineUnavailable(message)


def _joined(parts: list[bytes]) -> bytes:
    """Copied without Python's lock, which `join` gives up for bytes above 1 MB: so a thread's copying holds nobody up."""
    return b"".join(parts)
