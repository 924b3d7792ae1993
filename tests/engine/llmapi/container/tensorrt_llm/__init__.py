"""Stands in for TensorRT-LLM 1.2 where there is none: the LLM API's interface, and a model that continues a text by what followed before.

Names, defaults, refusals and the order of events are those of tensorrt_llm/llmapi/llm.py, sampling_params.py and executor/result.py, as far
as `engine/llmapi` uses them: results come from a thread of their own, an output grows while its request streams, an aborted request ends as
cancelled, and a request without an end token is refused where there is no tokenizer. Token 13 crashes the executor, token 12 one request.
"""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np

from tensorrt_llm.executor import CppExecutorError, RequestError
from tensorrt_llm.llmapi import KvCacheConfig, NGramDecodingConfig

BLOCK = 32
STEP_S = 0.002
CRASH, FAIL = 13, 12


@dataclass(kw_only=True)
class SamplingParams:
    """Those fields that a request of ours sets."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    stop_token_ids: list[int] | None = None
    embedding_bias: Any = None
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    logprobs: int | None = None
    return_perf_metrics: bool = False
    ignore_eos: bool = False
    detokenize: bool = True

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")
        if self.embedding_bias is not None and type(self.embedding_bias).__name__ != "Tensor":
            raise TypeError("embedding_bias must be a torch.Tensor")


@dataclass
class CompletionOutput:
    """What has been decoded so far."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    request_perf_metrics: Any = None


class RequestOutput:
    """A request's future: an iterator over itself."""

    def __init__(self, prompt: list[int], params: SamplingParams, salt: str | None, *, streaming: bool) -> None:
        self.prompt, self.params, self.salt, self.streaming = prompt, params, salt, streaming
        self.outputs = [CompletionOutput()]
        self.finished, self.aborted = False, False
        self.times = [time.monotonic()]
        self.num_reused = 0
        self.tokens: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def abort(self) -> None:
        """Let the executor end it."""
        self.aborted = True

    def put(self, item: Any) -> None:
        """From the executor's thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.finished:
            raise StopAsyncIteration
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        new, reason = item
        output = self.outputs[0]
        output.token_ids.extend(new)
        if self.params.logprobs:
            output.logprobs += [{token: SimpleNamespace(logprob=-0.5, rank=1)} for token in new]
        if reason is not None:
            self.finished, output.finish_reason = True, reason
            if reason == "stop" and output.token_ids[-1] in (self.params.stop_token_ids or ()):
                output.token_ids.pop()  # A stop word is taken out again, its log-probability is not.
            if self.params.return_perf_metrics:
                output.request_perf_metrics = self._metrics()
        return self

    def _metrics(self) -> Any:
        names = ("arrival_time", "first_scheduled_time", "first_token_time", "last_token_time")
        times = {name: timedelta(seconds=at) for name, at in zip(names, (*self.times[:3], self.times[-1]), strict=True)}
        total = -(-len(self.prompt) // BLOCK)
        blocks = {"num_total_allocated_blocks": total, "num_new_allocated_blocks": total - self.num_reused}
        return SimpleNamespace(
            timing_metrics=SimpleNamespace(**times),
            kv_cache_metrics=SimpleNamespace(num_reused_blocks=self.num_reused, **blocks),
            speculative_decoding=SimpleNamespace(acceptance_rate=0.5, total_accepted_draft_tokens=1, total_draft_tokens=2),
        )


class LLM:
    """A model of which nothing is loaded."""

    def __init__(
        self,
        model: str,
        *,
        backend: str,
        skip_tokenizer_init: bool,
        max_batch_size: int,
        max_num_tokens: int,
        max_seq_len: int,
        enable_chunked_prefill: bool,
        disable_overlap_scheduler: bool,
        kv_cache_config: KvCacheConfig,
        speculative_config: NGramDecodingConfig | None = None,
    ) -> None:
        assert backend == "pytorch"
        assert skip_tokenizer_init
        assert disable_overlap_scheduler or speculative_config is None
        self.model, self.kv_cache_config, self.speculative_config = model, kv_cache_config, speculative_config
        self._max_batch_size = max_batch_size
        self._arrived: queue.SimpleQueue[RequestOutput | None] = queue.SimpleQueue()
        self._blocks: set[tuple[str | None, tuple[int, ...]]] = set()
        self._down = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def generate_async(
        self, inputs: Sequence[int], sampling_params: SamplingParams, *, streaming: bool = False, cache_salt: str | None = None
    ) -> RequestOutput:
        """Queue a request."""
        if self._down:
            raise RuntimeError("LLM is shutting down")
        if sampling_params.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        if not isinstance(inputs, list):
            raise TypeError("The inputs must be type str or list of int")
        result = RequestOutput(inputs, dataclasses.replace(sampling_params), cache_salt, streaming=streaming)
        self._arrived.put(result)
        return result

    def shutdown(self) -> None:
        """End the executor."""
        self._down = True
        self._arrived.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        running: list[RequestOutput] = []
        while True:
            while not running or (not self._arrived.empty() and len(running) < self._max_batch_size):
                if (arrived := self._arrived.get()) is None:
                    return
                running.append(arrived)
            time.sleep(STEP_S)
            if any(CRASH in each.prompt for each in running):
                for each in running:
                    each.put(CppExecutorError("lost"))
                return
            running = [each for each in running if not self._step(each)]

    def _step(self, result: RequestOutput) -> bool:
        """Decode one token; whether that was the last."""
        if result.aborted:
            result.put(([], "cancelled"))
            return True
        if FAIL in result.prompt:
            result.put(RequestError(f"cannot serve {result.prompt}"))
            return True
        prefixes = [(result.salt, tuple(result.prompt[:end])) for end in range(BLOCK, len(result.prompt) + 1, BLOCK)]
        if not result.tokens:
            result.times.append(time.monotonic())
            result.num_reused = sum(each in self._blocks for each in prefixes)
        token = _next([*result.prompt, *result.tokens], result.params.embedding_bias)
        result.tokens.append(token)
        result.times.append(time.monotonic())
        reason = _reason(result, token)
        if result.streaming:
            result.put(([token], reason))
        elif reason:
            result.put((result.tokens, reason))
        if reason:
            self._blocks.update(prefixes)
        return reason is not None


def _next(tokens: list[int], bias: Any) -> int:
    """What followed the last token when it last came up."""
    places = [place for place in range(len(tokens) - 1) if tokens[place] == tokens[-1]]
    token = tokens[places[-1] + 1] if places else 0
    if bias is None:
        return token
    logits = bias.values.copy()
    logits[token] += 10
    return int(np.argmax(logits))


def _reason(result: RequestOutput, token: int) -> str | None:
    params = result.params
    if token == params.end_id and not params.ignore_eos:
        return "stop"
    if len(result.tokens) >= params.max_tokens:
        return "length"
    return "stop" if token in (params.stop_token_ids or ()) else None
