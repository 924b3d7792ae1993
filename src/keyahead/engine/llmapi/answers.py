"""What the LLM API's output means in the contract: new tokens, their log-probabilities, statistics.

`CompletionOutput` (tensorrt_llm/executor/result.py) grows while a request streams; it has no type here, since TensorRT-LLM is not at hand.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from keyahead.engine.contract import EngineRequest, EngineResponse, Perf

_MICROSECOND = timedelta(microseconds=1)


class Reader:
    """Turns one request's growing output into responses."""

    def __init__(self, request: EngineRequest) -> None:
        self._request = request
        self._num_sent = 0

    def read(self, output: Any, *, final: bool) -> EngineResponse:
        """What has come since the last call; everything if the request does not stream."""
        tokens = list(output.token_ids)
        if final and tokens and tokens[-1] == self._request.end_id:
            tokens.pop()  # Versions differ in whether it is left in.
        new = tokens[self._num_sent :]
        log_probs = None
        if self._request.return_log_probs:
            log_probs = tuple(each[token].logprob for token, each in zip(new, output.logprobs[self._num_sent :], strict=False))
        self._num_sent = len(tokens)
        perf = perf_of(output.request_perf_metrics) if final and self._request.return_perf_metrics else None
        with_input = not self._request.streaming and not self._request.exclude_input
        return EngineResponse((*self._request.input_ids, *new) if with_input else tuple(new), log_probs, perf)


def perf_of(metrics: Any) -> Perf:
    """`RequestPerfMetrics`; drafts are the engine's own."""
    times, blocks, drafts = metrics.timing_metrics, metrics.kv_cache_metrics, metrics.speculative_decoding
    return Perf(
        new_blocks=blocks.num_new_allocated_blocks,
        reused_blocks=blocks.num_reused_blocks,
        total_blocks=blocks.num_total_allocated_blocks,
        arrival_ns=_ns(times.arrival_time),
        first_scheduled_ns=_ns(times.first_scheduled_time),
        first_token_ns=_ns(times.first_token_time),
        last_token_ns=_ns(times.last_token_time),
        acceptance_rate=drafts.acceptance_rate,
        accepted_drafts=drafts.total_accepted_draft_tokens,
        drafts=drafts.total_draft_tokens,
    )


def _ns(since_start: timedelta) -> int:
    return since_start // _MICROSECOND * 1000
