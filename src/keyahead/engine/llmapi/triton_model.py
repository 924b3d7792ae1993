"""The LLM API as a model of Triton's Python backend."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from keyahead.engine.exchange import Exchange
from keyahead.engine.llmapi import ARGUMENTS
from keyahead.engine.llmapi.loop import LlmLoop
from keyahead.engine.llmapi.sampling import Limits


class TritonPythonModel:
    """What Triton's stub loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; Triton reports it ready when this returns."""
        # Here, because it takes hold of CUDA.
        from keyahead.engine.llmapi import runtime  # noqa: PLC0415

        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
        written = json.loads((Path(args["model_repository"]) / args["model_version"] / ARGUMENTS).read_text())
        arguments = written["llm"]
        limits = Limits(written["vocab_size"], arguments["max_seq_len"], arguments["max_batch_size"] + written["max_waiting"])
        self._loop = LlmLoop(runtime.Llm(arguments), limits, runtime.Crash, _die)
        self._exchange = Exchange(self._loop)

    def execute(self, requests: list[Any]) -> None:
        """Queue requests; they are answered from another thread."""
        self._exchange.take(requests)

    def finalize(self) -> None:
        """Cancel what is left and unload."""
        self._loop.close()


def _die() -> None:
    """A crashed engine is no engine: end Triton, too, once the last responses have left, so that whoever runs it starts both anew."""
    time.sleep(0.2)
    os.kill(os.getppid(), signal.SIGTERM)  # Triton would go on and call itself ready (docs/adr/0012).
    os._exit(70)
