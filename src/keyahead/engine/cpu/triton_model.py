"""The CPU engine as a model of Triton's Python backend: requests in, a decoupled stream of responses out."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb  # Provided by Triton's stub.

from keyahead.engine.contract import BLOCK_TOKENS, INPUTS, MAX_DRAFTS, ContractError, EngineResponse, decode_request, encode_response
from keyahead.engine.cpu.kv_store import open_store
from keyahead.engine.cpu.loop import EngineLoop
from keyahead.engine.cpu.lora import Adapters
from keyahead.engine.cpu.runner import Runner
from keyahead.engine.cpu.scheduler import Limits
from keyahead.engine.cpu.sequence import Sequence
from keyahead.engine.cpu.stats import EngineMetrics
from keyahead.engine.cpu.warmup import warm_up

log = logging.getLogger(__name__)

SETTINGS = {
    "kv_tokens": 16384,
    "max_context": 4096,
    "max_drafts": MAX_DRAFTS,
    "threads": 0,
    "kv_store_mb": 128,
    "max_lora_rank": 0,
    "lora_cache_mb": 512,
}
"""Parameters of `config.pbtxt` and their defaults; threads 0 is one for each core, kv_store_mb 0 keeps no KV in Redis, and with
max_lora_rank 0 the engine takes no adapters."""


class _Client:
    """One Triton request: sends its responses, and knows when the caller is gone."""

    def __init__(self, model: TritonPythonModel, request: Any) -> None:
        self._model = model
        self._sender = request.get_response_sender()
        self.request_id: str = request.request_id()
        self.sequence: Sequence | None = None

    def send(self, response: EngineResponse, *, final: bool) -> None:
        tensors = [pb.Tensor(name, array) for name, array in encode_response(response).items()]
        if final:
            self._model.forget(self)
        self._sender.send(pb.InferenceResponse(tensors), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)

    def fail(self, message: str) -> None:
        self._model.forget(self)
        self._sender.send(pb.InferenceResponse(error=pb.TritonError(message)), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def end(self) -> None:
        """Answer with nothing, as a stop request is answered."""
        self._sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


class TritonPythonModel:
    """What Triton's stub loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load, warm up, start the engine's thread; Triton reports the model ready when this returns."""
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
        parameters = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        settings = {name: int(parameters.get(name, default)) for name, default in SETTINGS.items()}
        num_blocks = settings["kv_tokens"] // BLOCK_TOKENS
        max_rank = settings["max_lora_rank"]
        runner = Runner(Path(parameters["model_folder"]), num_blocks, settings["threads"], adapters=max_rank > 0)
        self._adapters = Adapters(runner.sites, max_rank, settings["lora_cache_mb"] * 1_000_000)
        limits = Limits(runner.vocab_size, max_context=settings["max_context"], max_drafts=settings["max_drafts"])
        self._store = open_store(os.environ, runner.fingerprint, settings["kv_store_mb"] * 1_000_000 // runner.bytes_per_block)
        self._loop = EngineLoop(runner, warm_up(runner, limits), num_blocks, on_crash=_die, store=self._store)
        self._by_id: dict[str, list[_Client]] = {}
        self._lock = threading.Lock()
        self._metrics = EngineMetrics(pb, self._loop, self._store)

    def execute(self, requests: list[Any]) -> None:
        """Queue requests; they are answered from the engine's thread."""
        for request in requests:
            client = _Client(self, request)
            try:
                self._submit(request, client)
            except ContractError as error:
                client.fail(f"INVALID_ARGUMENT: {error}")

    def finalize(self) -> None:
        """Cancel what is left and stop the thread."""
        self._metrics.close()
        self._loop.close()
        if self._store is not None:
            self._store.close()

    def _submit(self, request: Any, client: _Client) -> None:
        present = ((tensor.name, pb.get_input_tensor_by_name(request, tensor.name)) for tensor in INPUTS)
        tensors = {name: tensor.as_numpy() for name, tensor in present if tensor is not None}
        decoded = decode_request(tensors, json.loads(request.parameters() or "{}"))
        if decoded.stop:
            self._stop(client.request_id)
            client.end()
            return
        adapter = self._adapters.of(decoded)
        with self._lock:
            client.sequence = self._loop.submit(decoded, client, adapter)
            self._by_id.setdefault(client.request_id, []).append(client)

    def _stop(self, request_id: str) -> None:
        with self._lock:
            clients = list(self._by_id.get(request_id, ()))
        for client in clients:
            if client.sequence is not None:
                self._loop.cancel(client.sequence)

    def forget(self, client: _Client) -> None:
        """A request has been answered."""
        with self._lock:
            clients = self._by_id.get(client.request_id, [])
            if client in clients:
                clients.remove(client)
            if not clients:
                self._by_id.pop(client.request_id, None)


def _die() -> None:
    """A crashed engine is no engine: end the process, so that Triton and the supervisor see it, once the last responses have left."""
    time.sleep(0.2)
    os._exit(70)
