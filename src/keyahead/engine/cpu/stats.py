"""The engine's counters on Triton's own Prometheus page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from keyahead.engine.cpu.kv_store import KvStore
from keyahead.engine.cpu.loop import EngineLoop

_PERIOD_S = 1.0

Sample = tuple[str, dict[str, str], float]


def samples(loop: EngineLoop, store: KvStore | None) -> Iterator[Sample]:
    """Every counter as (family, labels, value)."""
    counters = loop.counters
    yield "keyahead_engine_steps_total", {}, counters.steps
    yield "keyahead_engine_output_steps_total", {}, counters.output_steps
    for kind in ("output", "prefill", "decode", "draft", "accepted_draft", "reused"):
        yield "keyahead_engine_tokens_total", {"kind": kind}, getattr(counters, f"{kind}_tokens")
    yield "keyahead_engine_tokens_after_cancel_total", {}, counters.tokens_after_cancel
    yield "keyahead_engine_preempted_total", {}, counters.preempted
    yield "keyahead_engine_yielding_steps_total", {}, counters.yielding_steps
    for work_class, count in dict(counters.class_tokens).items():
        yield "keyahead_engine_class_tokens_total", {"class": work_class}, count
    for outcome in ("hits", "misses", "late"):
        yield "keyahead_engine_kv_store_fetches_total", {"outcome": outcome}, getattr(loop.store_counters, outcome)
    yield "keyahead_engine_kv_store_tokens_total", {}, loop.store_counters.fetched_tokens
    if store is not None:
        yield "keyahead_engine_kv_store_written_bytes_total", {}, store.written_bytes
        yield "keyahead_engine_kv_store_dropped_total", {}, store.dropped_blocks
    for reason, count in dict(counters.finished).items():
        yield "keyahead_engine_finished_total", {"reason": reason}, count
    for phase, count in dict(counters.cancelled_in).items():
        yield "keyahead_engine_cancelled_total", {"phase": phase}, count


_HELP = {
    "keyahead_engine_steps_total": "Forward passes.",
    "keyahead_engine_output_steps_total": "Forward passes that gave tokens; the others only read prompts.",
    "keyahead_engine_tokens_total": "Tokens given (output), computed, found in the KV cache (reused), or drafts accepted.",
    "keyahead_engine_tokens_after_cancel_total": "Tokens computed for a request after its cancel was known.",
    "keyahead_engine_preempted_total": "Sequences that gave their KV blocks to one whose turn was earlier.",
    "keyahead_engine_yielding_steps_total": "Short steps, given to tenants beyond their share or to background work.",
    "keyahead_engine_class_tokens_total": "Tokens computed, by who waits for them.",
    "keyahead_engine_kv_store_fetches_total": "Long unknown prompts of which Redis held blocks (hits), none (misses), or answered late.",
    "keyahead_engine_kv_store_tokens_total": "Tokens whose KV came from Redis.",
    "keyahead_engine_kv_store_written_bytes_total": "KV written to Redis.",
    "keyahead_engine_kv_store_dropped_total": "Blocks not written, since the queue was full or Redis failed.",
    "keyahead_engine_finished_total": "Sequences ended, by reason.",
    "keyahead_engine_cancelled_total": "Sequences cancelled, by what they were doing.",
}


class EngineMetrics:
    """Copies the counters once a second."""

    def __init__(self, backend: Any, loop: EngineLoop, store: KvStore | None) -> None:
        counter = backend.MetricFamily.COUNTER
        self._families = {name: backend.MetricFamily(name=name, description=text, kind=counter) for name, text in _HELP.items()}
        self._metrics: dict[tuple[str, str], Any] = {}
        self._loop = loop
        self._store = store
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; waits for a copy under way."""
        self._closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing.wait(_PERIOD_S):
            for family, labels, value in samples(self._loop, self._store):
                key = (family, str(labels))
                if key not in self._metrics:
                    self._metrics[key] = self._families[family].Metric(labels=labels)
                metric = self._metrics[key]
                if (grown := value - metric.value()) > 0:
                    metric.increment(grown)
