"""Between Triton's Python backend and an engine: requests are read by the contract, answered as they are computed, and ended by a stop.

Runs in Triton's stub, which provides `triton_python_backend_utils`.
"""

from __future__ import annotations

import json
import threading
from typing import Any, Protocol

import triton_python_backend_utils as pb  # Provided by Triton's stub.

from keyahead.engine.contract import INPUTS, ContractError, EngineRequest, EngineResponse, decode_request, encode_response


class Client:
    """One Triton request: sends its responses, and knows when the caller is gone."""

    def __init__(self, exchange: Exchange, request: Any) -> None:
        self._exchange = exchange
        self._sender = request.get_response_sender()
        self.request_id: str = request.request_id()
        self.handle: Any = None
        """What the engine knows it by."""

    def send(self, response: EngineResponse, *, final: bool) -> None:
        """New tokens; the last response of a request is final."""
        tensors = [pb.Tensor(name, array) for name, array in encode_response(response).items()]
        if final:
            self._exchange.forget(self)
        self._sender.send(pb.InferenceResponse(tensors), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)

    def fail(self, message: str) -> None:
        """The request ended without a result."""
        self._exchange.forget(self)
        self._sender.send(pb.InferenceResponse(error=pb.TritonError(message)), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def end(self) -> None:
        """Answer with nothing, as a stop request is answered."""
        self._sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        """Whether the caller is gone."""
        return bool(self._sender.is_cancelled())


class Engine(Protocol):
    """Computes."""

    def submit(self, request: EngineRequest, client: Client) -> Any:
        """Queue a request and return its handle. ContractError for one that can never be served."""

    def cancel(self, handle: Any) -> None:
        """End a request, which may have ended."""


class Exchange:
    """All requests of one model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_id: dict[str, list[Client]] = {}
        self._lock = threading.Lock()

    def take(self, requests: list[Any]) -> None:
        """Hand requests to the engine, whose thread answers them."""
        for request in requests:
            client = Client(self, request)
            try:
                self._submit(request, client)
            except ContractError as error:
                client.fail(f"INVALID_ARGUMENT: {error}")

    def forget(self, client: Client) -> None:
        """A request has been answered."""
        with self._lock:
            clients = self._by_id.get(client.request_id, [])
            if client in clients:
                clients.remove(client)
            if not clients:
                self._by_id.pop(client.request_id, None)

    def _submit(self, request: Any, client: Client) -> None:
        present = ((tensor.name, pb.get_input_tensor_by_name(request, tensor.name)) for tensor in INPUTS)
        tensors = {name: tensor.as_numpy() for name, tensor in present if tensor is not None}
        decoded = decode_request(tensors, json.loads(request.parameters() or "{}"))
        if decoded.stop:
            self._stop(client.request_id)
            client.end()
            return
        with self._lock:  # Not while submitting, which may take long; Triton's thread alone submits and stops.
            self._by_id.setdefault(client.request_id, []).append(client)
        client.handle = self._engine.submit(decoded, client)

    def _stop(self, request_id: str) -> None:
        with self._lock:
            clients = list(self._by_id.get(request_id, ()))
        for client in clients:
            self._engine.cancel(client.handle)
