"""The one stream to Triton: requests side by side, stops, errors by kind, and an engine that comes and goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import numpy as np
import pytest

from keyahead.engine.adapters import Adapter
from keyahead.engine.contract import (
    DTYPES,
    NOT_CACHED,
    EngineRequest,
    EngineResponse,
    decode_request,
    encode_response,
)
from keyahead.proto.inference import triton_pb2, triton_pb2_grpc
from keyahead.service import engine_client
from keyahead.service.adapters import TenantAdapters
from keyahead.service.engine_client import EngineClient, EngineError
from keyahead.service.errors import problem_of
from keyahead.service.model import EngineUnavailable, Overloaded

FULL = (
    "RESOURCE_EXHAUSTED: input_ids: the engine's queue of 64 requests is full, retry later",
    "[request id: d1] Exceeds maximum queue size",
    "Encountered an error in executor: Maximum queue size of 64 has been reached, please try again later",
)
"""As the CPU engine, Triton's scheduler, and TensorRT-LLM's executor say it."""
Infer = triton_pb2.ModelStreamInferResponse


def response(request_id: str, tokens: tuple[int, ...] = (), *, final: bool = False, error: str = "") -> Infer:
    """As Triton sends it."""
    message = Infer(error_message=error)
    message.infer_response.id = request_id
    message.infer_response.parameters["triton_final_response"].bool_param = final
    if tokens:
        names = {np.dtype(kind): name for name, kind in DTYPES.items()}
        for name, array in encode_response(EngineResponse(tokens)).items():
            message.infer_response.outputs.add(name=name, datatype=names[array.dtype], shape=array.shape)
            message.infer_response.raw_output_contents.append(array.tobytes())
    return message


ADAPTER = Adapter("ab" * 32, 1, frozenset({"q_proj"}), np.ones((1, 8), np.float16).tobytes(), np.array([[1, 0, 1]], np.int32))


class ScriptedTriton(triton_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers a ping; counts up from a prompt's last token; knows some errors by their prompt, and adapters by their weights."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.healthy = True
        self.full = ""
        self.known: set[int] = set()
        self.asked: list[tuple[int | None, bool]] = []
        """Of each request: its adapter, and whether it brought the weights."""
        self.forgets = False
        """Forgets every adapter at once."""

    async def ModelStreamInfer(self, requests: AsyncIterator[triton_pb2.ModelInferRequest], context: object) -> AsyncIterator[Infer]:
        outgoing: asyncio.Queue[Infer] = asyncio.Queue()
        reader = asyncio.create_task(self._read(requests, outgoing))
        try:
            while True:
                yield await outgoing.get()
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[triton_pb2.ModelInferRequest], outgoing: asyncio.Queue[Infer]) -> None:
        async with asyncio.TaskGroup() as group:
            async for message in requests:
                kinds = {tensor.name: DTYPES[tensor.datatype] for tensor in message.inputs}
                shapes = {tensor.name: tuple(tensor.shape) for tensor in message.inputs}
                arrays = zip(kinds, message.raw_input_contents, strict=True)
                request = decode_request({name: np.frombuffer(raw, kinds[name]).reshape(shapes[name]) for name, raw in arrays}, {})
                if request.stop:
                    self.stopped.append(message.id)
                    error = self.full or ("" if self.healthy else "Stub process 'tensorrt_llm' is not healthy.")
                    outgoing.put_nowait(response(message.id, final=True, error=error))
                elif self._refuses(request):
                    error = f"Executor failed: LoRA task {request.lora_task_id} {NOT_CACHED}"
                    outgoing.put_nowait(response(message.id, final=True, error=error))
                else:
                    group.create_task(self._decode(message.id, request, outgoing))

    def _refuses(self, request: EngineRequest) -> bool:
        self.asked.append((request.lora_task_id, request.lora_weights is not None))
        if request.lora_task_id is not None and request.lora_weights is not None and not self.forgets:
            self.known.add(request.lora_task_id)
        return request.lora_task_id is not None and request.lora_task_id not in self.known

    async def _decode(self, request_id: str, request: EngineRequest, outgoing: asyncio.Queue[Infer]) -> None:
        last = request.input_ids[-1]
        errors = {900: "INVALID_ARGUMENT: input_ids: bad", 901: "Stub process 'tensorrt_llm' is not healthy."}
        errors |= {902 + place: message for place, message in enumerate(FULL)}
        if last in errors:
            outgoing.put_nowait(response(request_id, final=True, error=errors[last]))
            return
        for token in range(last + 1, last + 1 + request.max_new_tokens):
            await asyncio.sleep(0.005)
            if request_id in self.stopped:
                return
            outgoing.put_nowait(response(request_id, (token,), final=token == last + request.max_new_tokens))


Check = Callable[[EngineClient, ScriptedTriton, grpc.aio.Server], Awaitable[None]]


@pytest.fixture
def run() -> Callable[[Check], None]:
    """Runs a check with a connected client; no task may be left."""

    def runner(check: Check) -> None:
        async def main() -> None:
            triton = ScriptedTriton()  # type: ignore[abstract]  # the other methods are the base's: unimplemented
            server, port = await serve(triton, 0)
            client = EngineClient(f"127.0.0.1:{port}", TenantAdapters({"acme": ADAPTER}))
            client.start()
            await until(lambda: client.ready)
            await check(client, triton, server)
            await client.aclose()
            await server.stop(0)
            assert not client._decodes

        asyncio.run(main())

    return runner


async def serve(triton: ScriptedTriton, port: int) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    triton_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, bound


async def until(check: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.01)


async def collect(client: EngineClient, first: int, count: int, tenant: str = "") -> list[int]:
    tokens: list[int] = []
    async for part in client.decode(EngineRequest(input_ids=(1, first), max_new_tokens=count, streaming=True, namespace=tenant)):
        tokens += part.output_ids
    return tokens


def test_requests_share_the_stream_and_keep_apart(run: Callable[[Check], None]) -> None:
    """Twenty at once, and each gets its own tokens."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        results = await asyncio.gather(*(collect(client, 10 * i, 5) for i in range(20)))
        assert results == [[10 * i + j for j in range(1, 6)] for i in range(20)]

    run(check)


def test_a_stop_ends_the_iteration_and_tells_the_engine(run: Callable[[Check], None]) -> None:
    """Nothing comes after `stop`, and a stop message with the request's id has been sent."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        decode = client.decode(EngineRequest(input_ids=(5,), max_new_tokens=1000, streaming=True))
        tokens: list[int] = []
        async for part in decode:
            tokens += part.output_ids
            if len(tokens) == 3:
                decode.stop()
        assert tokens == [6, 7, 8]
        await until(lambda: any(each != "ping" for each in triton.stopped))

    run(check)


def test_errors_are_told_apart(run: Callable[[Check], None]) -> None:
    """The engine's own refusals are its errors; what Triton says of a dead engine means unavailable."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        with pytest.raises(EngineError, match="input_ids"):
            await collect(client, 900, 1)
        with pytest.raises(EngineUnavailable):
            await collect(client, 901, 1)
        assert await collect(client, 1, 2) == [2, 3]

    run(check)


@pytest.mark.parametrize("place", range(len(FULL)))
def test_a_full_queue_is_overload(run: Callable[[Check], None], place: int) -> None:
    """Whoever says so: the editor is to come again, not to think that the engine is gone."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        with pytest.raises(Overloaded) as refused:
            await collect(client, 902 + place, 1)
        problem = problem_of(refused.value)
        assert problem.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert problem.retry_after_s == 1.0

    run(check)


def test_an_engine_too_busy_for_a_ping_is_alive(run: Callable[[Check], None]) -> None:
    """Its queue is full; what it works on is not given up."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        triton.full, seen = FULL[1], len(triton.stopped)
        await until(lambda: len(triton.stopped) > seen + 1)
        assert client.ready

    run(check)


def test_a_lost_engine_fails_what_is_in_flight_and_is_found_again(run: Callable[[Check], None]) -> None:
    """Requests in flight are unavailable at once, new ones are refused, and a restarted engine serves."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        running = asyncio.create_task(collect(client, 1, 1000))
        await asyncio.sleep(0.05)
        port = int(client._address.rpartition(":")[2])
        await server.stop(0)
        with pytest.raises(EngineUnavailable):
            await running
        assert not client.ready
        with pytest.raises(EngineUnavailable):
            client.decode(EngineRequest(input_ids=(1,)))
        again, _ = await serve(triton, port)
        await until(lambda: client.ready)
        assert await collect(client, 1, 2) == [2, 3]
        await client.aclose()
        await again.stop(0)

    run(check)


def test_an_adapters_weights_go_once_and_again_when_they_are_forgotten(run: Callable[[Check], None]) -> None:
    """With a tenant's first request, then only the id; when the engine has evicted it, the caller notices nothing. Others send none."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        for first in (10, 20):
            assert await collect(client, first, 2, "acme/ann") == [first + 1, first + 2]
        assert await collect(client, 30, 1, "other") == [31]
        triton.known.clear()
        assert await collect(client, 40, 2, "acme") == [41, 42]
        task_id = ADAPTER.task_id
        assert triton.asked == [(task_id, True), (task_id, False), (None, False), (task_id, False), (task_id, True)]

    run(check)


def test_weights_are_sent_again_once_only(run: Callable[[Check], None]) -> None:
    """An engine that forgets an adapter as soon as it has come gets no second copy: the request fails."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        triton.forgets = True
        with pytest.raises(EngineUnavailable, match="LoRA task"):
            await collect(client, 10, 1, "acme")
        with pytest.raises(EngineUnavailable, match="LoRA task"):
            await collect(client, 10, 1, "acme")
        assert [with_weights for _, with_weights in triton.asked] == [True, False, True]

    run(check)


class HeldCopies:
    """Copying of weights that takes until it is let go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.go_on = threading.Event()
        self._copy = engine_client._joined
        monkeypatch.setattr(engine_client, "_joined", self._held)

    def _held(self, parts: list[bytes]) -> bytes:
        self.begun += 1
        assert self.go_on.wait(20), "the event loop waits for the copy"
        return self._copy(parts)


def test_while_weights_are_copied_others_are_answered(run: Callable[[Check], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop goes on. Of several requests with the adapter one brings the weights, and the others wait for it."""
    held = HeldCopies(monkeypatch)

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        adapted = [asyncio.create_task(collect(client, first, 1, "acme")) for first in (10, 20, 30)]
        await until(lambda: held.begun == 1)
        assert await collect(client, 40, 2, "other") == [41, 42]
        assert not any(each.done() for each in adapted)
        held.go_on.set()
        assert await asyncio.gather(*adapted) == [[11], [21], [31]]
        assert [with_weights for _, with_weights in triton.asked] == [False, True, False, False]

    run(check)


def test_who_is_stopped_while_its_weights_are_copied_is_not_sent(run: Callable[[Check], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor counts as having brought them: the next request does."""
    held = HeldCopies(monkeypatch)

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        stopped = client.decode(EngineRequest(input_ids=(10,), max_new_tokens=1, namespace="acme"))
        await until(lambda: held.begun == 1)
        stopped.stop()
        held.go_on.set()
        assert await collect(client, 20, 1, "acme") == [21]
        assert triton.asked == [(ADAPTER.task_id, True)]

    run(check)


def test_a_new_stream_is_told_anew(run: Callable[[Check], None]) -> None:
    """Behind it there may be another engine, so the weights go with its first request."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        await collect(client, 10, 1, "acme")
        port = int(client._address.rpartition(":")[2])
        await server.stop(0)
        await until(lambda: not client.ready)
        again, _ = await serve(triton, port)
        await until(lambda: client.ready)
        await collect(client, 20, 1, "acme")
        assert [with_weights for _, with_weights in triton.asked] == [True, True]
        await client.aclose()
        await again.stop(0)

    run(check)


def test_an_unhealthy_model_is_not_ready(run: Callable[[Check], None]) -> None:
    """When the model's process has died Triton still answers, but the ping does not come back: not ready."""

    async def check(client: EngineClient, triton: ScriptedTriton, server: grpc.aio.Server) -> None:
        triton.healthy = False
        await until(lambda: not client.ready)
        triton.healthy = True
        await until(lambda: client.ready)

    run(check)
