"""The CPU engine as a model of Triton's Python backend: requests in, a decoupled stream of responses out."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb  # Provided by Triton's stub.

from keyahead.engine.contract import BLOCK_TOKENS, EngineRequest
from keyahead.engine.cpu.kv_store import open_store
from keyahead.engine.cpu.loop import EngineLoop
from keyahead.engine.cpu.lora import Adapters
from keyahead.engine.cpu.runner import Runner
from keyahead.engine.cpu.scheduler import Limits
from keyahead.engine.cpu.sequence import Sequence
from keyahead.engine.cpu.stats import EngineMetrics
from keyahead.engine.cpu.warmup import warm_up
from keyahead.engine.exchange import Client, Exchange
from keyahead.engine.repository import SETTINGS

log = logging.getLogger(__name__)


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
        self._exchange = Exchange(self)
        self._metrics = EngineMetrics(pb, self._loop, self._store)

    def execute(self, requests: list[Any]) -> None:
        """Queue requests; they are answered from the engine's thread."""
        self._exchange.take(requests)

    def finalize(self) -> None:
        """Cancel what is left and stop the thread."""
        self._metrics.close()
        self._loop.close()
        if self._store is not None:
            self._store.close()

    def submit(self, request: EngineRequest, client: Client) -> Sequence:
        """For the exchange: queue a request with its adapter."""
        return self._loop.submit(request, client, self._adapters.of(request))

    def cancel(self, handle: Sequence) -> None:
        """For the exchange: end a request."""
        self._loop.cancel(handle)


def _die() -> None:
    """A crashed engine is no engine: end the process, so that Triton and the supervisor see it, once the last responses have left."""
    time.sleep(0.2)
    os._exit(70)
