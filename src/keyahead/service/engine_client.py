"""A service's one connection to a Triton: every request for it on one ModelStreamInfer stream.

One stream, because opening a call costs more than a message, and because grpc.aio leaks about 1 KB for each call a client cancels
(grpc#43360): here a request is cancelled by a `stop` message with its id, as the contract has it, and the call stays.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING

import grpc
import numpy as np

from keyahead.engine.contract import (
    DTYPES,
    INPUTS,
    MODEL_NAME,
    PARAM_CLASS,
    PARAM_DEADLINE_MS,
    PARAM_NAMESPACE,
    PARAM_WEIGHT,
    PERF_OUTPUTS,
    Array,
    ContractError,
    EngineRequest,
    EngineResponse,
    decode_response,
    encode_request,
)
from keyahead.proto.inference import triton_pb2, triton_pb2_grpc
from keyahead.service.model import EngineUnavailable, Overloaded
from keyahead.service.tracing import engine_trace

if TYPE_CHECKING:
    Stub = triton_pb2_grpc.GRPCInferenceServiceAsyncStub
    Call = grpc.aio.StreamStreamCall[triton_pb2.ModelInferRequest, triton_pb2.ModelStreamInferResponse]

log = logging.getLogger(__name__)

PING_PERIOD_S = 0.5
PING_TIMEOUT_S = 3.0
"""Longest silence of a healthy engine, far above any step's time."""
RECONNECT_S = 0.25
_RETRY_AFTER_S = 1.0
_DATATYPES = {tensor.name: tensor.datatype for tensor in INPUTS}
_OUTPUTS = ("output_ids", "sequence_length")
_PERF_OUTPUTS = tuple(tensor.name for tensor in PERF_OUTPUTS)
_OPTIONS = (("grpc.max_receive_message_length", 1 << 20), ("grpc.max_send_message_length", 4 << 20))


class EngineError(Exception):
    """The engine refused or ended a request; the message is its own."""


class Decode:
    """One request on the stream: iterate over its responses, or `stop` it."""

    def __init__(self, client: EngineClient, request_id: str) -> None:
        self._client = client
        self._id = request_id
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

    def __init__(self, address: str) -> None:
        self._address = address
        self._outgoing: asyncio.Queue[triton_pb2.ModelInferRequest] = asyncio.Queue()
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_all("the service is shutting down")

    def decode(self, request: EngineRequest) -> Decode:
        """Send a request; EngineUnavailable at once when the engine does not answer."""
        if not self.ready:
            raise EngineUnavailable("the engine is not ready")
        decode = Decode(self, f"d{next(self._ids)}")
        self._decodes[decode._id] = decode  # noqa: SLF001 - one abstraction in two classes
        self._outgoing.put_nowait(_message(decode._id, request))  # noqa: SLF001
        return decode

    def stop(self, request_id: str) -> None:
        """End a request that is still running."""
        decode = self._decodes.pop(request_id, None)
        if decode is not None:
            decode.put(None)
            self._outgoing.put_nowait(_message(request_id, EngineRequest(stop=True)))

    async def _keep_connected(self) -> None:
        while True:
            try:
                async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
                    await self._run_stream(triton_pb2_grpc.GRPCInferenceServiceStub(channel))
            except* (grpc.RpcError, TimeoutError) as errors:
                (log.warning if self.ready else log.debug)("engine stream lost: %s", type(errors.exceptions[0]).__name__)
            finally:
                self.ready = False
                self._fail_all("the engine is gone")
            await asyncio.sleep(RECONNECT_S)

    async def _run_stream(self, stub: Stub) -> None:
        self._outgoing = asyncio.Queue()
        call: Call = stub.ModelStreamInfer(self._requests())
        async with asyncio.TaskGroup() as group:
            pinger = group.create_task(self._ping())
            try:
                async for response in call:
                    self._receive(response)
            finally:
                pinger.cancel()
                call.cancel()
        raise TimeoutError  # Triton ended the stream by itself.

    async def _requests(self) -> AsyncIterator[triton_pb2.ModelInferRequest]:
        while True:
            yield await self._outgoing.get()

    async def _ping(self) -> None:
        """A stop of nothing is answered by the model itself: it tells that the engine's process lives."""
        while True:
            self._pong.clear()
            self._outgoing.put_nowait(_message("ping", EngineRequest(stop=True)))
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._pong.wait()
            if not self.ready and self.on_ready:
                self.on_ready()
            self.ready = True
            await asyncio.sleep(PING_PERIOD_S)

    def _receive(self, response: triton_pb2.ModelStreamInferResponse) -> None:
        inner = response.infer_response
        if inner.id == "ping":
            if response.error_message:
                raise TimeoutError
            self._pong.set()
            return
        decode = self._decodes.get(inner.id)
        if decode is None:
            return
        final = inner.parameters["triton_final_response"].bool_param
        if response.error_message:
            decode.put(_error(response.error_message))
            final = True
        elif inner.outputs:
            try:
                decode.put(decode_response(_arrays(inner)))
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


def _error(message: str) -> Exception:
    """The engine prefixes its own errors with a code; what Triton says when the engine's process is gone has none."""
    if "RESOURCE_EXHAUSTED" in message:
        return Overloaded("the engine's queue is full", _RETRY_AFTER_S)
    known = ("INVALID_ARGUMENT", "CANCELLED", "DEADLINE_EXCEEDED")
    return EngineError(message) if any(code in message for code in known) else EngineUnavailable(message)


def _message(request_id: str, request: EngineRequest) -> triton_pb2.ModelInferRequest:
    message = triton_pb2.ModelInferRequest(model_name=MODEL_NAME, id=request_id)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    if request.deadline_ms is not None:
        message.parameters[PARAM_DEADLINE_MS].int64_param = request.deadline_ms
    if request.namespace:
        message.parameters[PARAM_NAMESPACE].string_param = request.namespace
    if not request.stop:
        message.parameters[PARAM_CLASS].string_param = request.work_class
        message.parameters[PARAM_WEIGHT].int64_param = request.weight
    for name, array in encode_request(request).items():
        message.inputs.add(name=name, datatype=_DATATYPES[name], shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    for name in _outputs(request):
        message.outputs.add(name=name)
    return message


def _outputs(request: EngineRequest) -> tuple[str, ...]:
    """Only what is wanted is asked for: a tensor more is a tensor more in every response."""
    log_probs = ("output_log_probs",) if request.return_log_probs else ()
    return (*_OUTPUTS, *log_probs, *(_PERF_OUTPUTS if request.return_perf_metrics else ()))


def _arrays(response: triton_pb2.ModelInferResponse) -> Mapping[str, Array]:
    return {
        output.name: np.frombuffer(raw, dtype=DTYPES[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        if output.datatype in DTYPES
    }
