"""The CPU engine's promises, measured in one process on the real default model.

A drafts' verification and concurrent sequences against one decode step, prefill by chunk, the cost of one more key, how a cold prompt
disturbs warm requests, and what is computed after a cancel.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from common import (
    SEED,
    TIMEOUT_S,
    Client,
    Engine,
    Figure,
    arguments,
    bare_step,
    interleaved,
    library,
    median_ratio,
    report_figures,
    running_engine,
)

from keyahead.cli.infilling import percentile
from keyahead.engine.catalogue import Budgets
from keyahead.engine.contract import Perf
from keyahead.engine.cpu.runner import timed
from keyahead.engine.cpu.scheduler import MAX_CHUNK
from keyahead.engine.cpu.sequence import Sequence
from keyahead.service.model import ContextFile, Query
from keyahead.service.prompt import PromptBuilder

DRAFTS = (1, 2, 4, 8)
CONCURRENT = (1, 2, 4, 8)
CHUNKS = (8, 16, 32, 64)
PAST_TOKENS = 1000
"""KV that a measured chunk stands behind: the middle of a cold prompt of `COLD_TOKENS`."""
COLD_TOKENS = 2000
WARM_TOKENS = 200
DECODED = 24
SHORT_TOKENS = 8
SHORT_REQUESTS = 20
BLOCKS_OF_REQUESTS = 5
MAX_GAP_S = 0.08
"""Warm requests come at random moments, so that they meet a chunk at any point of its time."""
KEYS = 40
CANCELS = 30
_chance = random.Random(SEED)  # noqa: S311 - moments, not secrets


def chunk_times(engine: Engine) -> dict[int, float]:
    """Median milliseconds of a chunk of each size. To be called before the engine has cached anything."""
    measures = {size: partial(timed, engine.runner, bare_step(engine.code(size, 0), PAST_TOKENS)) for size in CHUNKS}
    interleaved(1, measures)  # The first run of a size makes its kernels.
    return {size: statistics.median(samples) for size, samples in interleaved(5, measures).items()}


def prefill(times: dict[int, float]) -> list[Figure]:
    """Prefill's rate by chunk."""
    rates = {size: size / times[size] * 1e3 for size in CHUNKS}
    baseline = f"chunk of {CHUNKS[0]}: {rates[CHUNKS[0]]:.0f} tokens/s"
    return [
        Figure(
            f"prefill_{size}",
            f"prefill rate, chunk of {size} ({rates[size]:.0f} tokens/s)",
            rates[size] / rates[CHUNKS[0]],
            "times",
            baseline,
        )
        for size in CHUNKS[1:]
    ]


def step_ms(engine: Engine, ids: list[int], drafts: tuple[int, ...]) -> float:
    """Milliseconds of a request that is one step: one decoded token, or drafts verified."""
    perf = engine.ask(ids, draft_ids=drafts, max_new_tokens=len(drafts) + 1).result()
    return (perf.last_token_ns - perf.first_scheduled_ns) / 1e6


def verification(engine: Engine) -> list[Figure]:
    """Verifying right drafts against decoding one token, behind the same warm prompt."""
    ids = engine.code(WARM_TOKENS, 0)
    drafts = tuple(engine.ask(ids, max_new_tokens=max(DRAFTS)).tokens)
    samples = interleaved(20, {count: partial(step_ms, engine, ids, drafts[:count]) for count in (0, *DRAFTS)})
    baseline = f"one decode step: {statistics.median(samples[0]):.1f} ms"
    return [
        Figure(
            f"verify_{count}",
            f"step that verifies {count} drafts",
            median_ratio(samples[count], samples[0]),
            "times",
            baseline,
            at_most=1.4 if count == max(DRAFTS) else None,
        )
        for count in DRAFTS
    ]


def token_rate(engine: Engine, count: int) -> float:
    """Tokens per second of so many sequences decoding side by side."""
    prompts = [engine.code(WARM_TOKENS, 1000 * index) for index in range(count)]
    clients = [engine.start(ids, max_new_tokens=DECODED)[0] for ids in prompts]
    return sum(_rate(client.result()) for client in clients)


def _rate(perf: Perf) -> float:
    return (DECODED - 1) / (perf.last_token_ns - perf.first_token_ns) * 1e9


def concurrency(engine: Engine) -> list[Figure]:
    """The token rate of concurrent sequences against that of one; all prompts are warm."""
    token_rate(engine, max(CONCURRENT))
    samples = interleaved(4, {count: partial(token_rate, engine, count) for count in CONCURRENT})
    baseline = f"one: {statistics.median(samples[1]):.1f} tokens/s"
    return [
        Figure(
            f"concurrent_{count}",
            f"token rate of {count} sequences",
            median_ratio(samples[count], samples[1]),
            "times",
            baseline,
            at_least=5 if count == max(CONCURRENT) else None,
        )
        for count in CONCURRENT[1:]
    ]


def typing(engine: Engine) -> list[Figure]:
    """Prompt tokens that each of `KEYS` more characters costs, prompts and healing as in the service, by the engine's counter."""
    # Budgets for a prompt of some 1,500 tokens whose window does not move meanwhile.
    builder = PromptBuilder(msgspec.structs.replace(engine.model, budgets=Budgets(prefix=1200, suffix=200, context=750)), engine.tokenizer)
    first, second = (path.read_text() for path in library()[:2])
    start, end = 3000, 4000
    context, suffix = (ContextFile("other.py", second),), first[end:]
    computed, length = [], 0
    for typed in range(KEYS + 1):
        prompt = builder.build(Query(prefix=first[: start + typed], suffix=suffix, context=context))
        before, length = engine.loop.counters.prefill_tokens, len(prompt.tokens)
        engine.line(prompt, max_tokens=2)
        computed.append(engine.loop.counters.prefill_tokens - before)
    cold, *keys = computed
    baseline = f"the cold prompt: {cold} of {length} tokens"
    return [
        Figure("typing_median", f"tokens prefilled for one more character, median of {KEYS}", statistics.median(keys), "tokens", baseline),
        Figure("typing_most", "the same, most", max(keys), "tokens", baseline, at_most=15),
    ]


class ColdPrompts:
    """Prompts that nothing is known of, prefilled one after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._count = 0
        self._running: tuple[Client, Sequence] | None = None

    def start(self) -> tuple[Client, Sequence]:
        """Begin the next one."""
        self._count += 1
        ids = self._engine.code(COLD_TOKENS, 500 * self._count)
        # Of the same tenant as the warm requests: between tenants, shares of time decide, not chunks (benchmarks/fairness.py).
        return self._engine.start(ids, max_new_tokens=1)

    def keep_busy(self) -> None:
        """Begin one unless one is running."""
        if self._running is None or self._running[0].ended.is_set():
            self._running = self.start()
            wait_for_steps(self._engine, 1)

    def stop(self) -> None:
        """End what is running."""
        if self._running is not None:
            self._engine.loop.cancel(self._running[1])
            self._running[0].ended.wait(TIMEOUT_S)
            self._running = None


def wait_for_steps(engine: Engine, count: int) -> None:
    """Until so many more steps have been computed."""
    target, until = engine.loop.counters.steps + count, time.monotonic() + TIMEOUT_S
    while engine.loop.counters.steps < target and time.monotonic() < until:
        time.sleep(0.001)


def warm_latencies(engine: Engine, before_each: Callable[[], None]) -> list[float]:
    """Milliseconds of `SHORT_REQUESTS` requests of `SHORT_TOKENS` tokens behind a warm prompt."""
    ids = engine.code(WARM_TOKENS, 0)
    latencies = []
    for _ in range(SHORT_REQUESTS):
        before_each()
        time.sleep(_chance.uniform(0, MAX_GAP_S))
        begin = time.perf_counter()
        engine.ask(ids, max_new_tokens=SHORT_TOKENS)
        latencies.append((time.perf_counter() - begin) * 1e3)
    return latencies


def chunked_prefill(engine: Engine) -> list[Figure]:
    """How much later warm requests are answered while a cold prompt is prefilled, in units of a chunk's time in the middle of it."""
    chunk = bare_step(engine.code(engine.limits.chunk, 0), COLD_TOKENS // 2)
    chunk_ms = statistics.median(timed(engine.runner, chunk) for _ in range(5))
    alone: list[float] = []
    disturbed: list[float] = []
    cold = ColdPrompts(engine)
    for _ in range(BLOCKS_OF_REQUESTS):
        alone += warm_latencies(engine, lambda: None)
        disturbed += warm_latencies(engine, cold.keep_busy)
        cold.stop()
    figures = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        quiet, busy = percentile(sorted(alone), share), percentile(sorted(disturbed), share)
        meaning = f"{name} of warm requests during a cold prefill, growth ({quiet:.0f} to {busy:.0f} ms)"
        baseline = f"a chunk of {engine.limits.chunk} behind {COLD_TOKENS // 2} tokens: {chunk_ms:.0f} ms"
        bound = 1.0 if name == "p99" else None
        figures.append(Figure(f"disturbed_{name}", meaning, (busy - quiet) / chunk_ms, "chunks", baseline, at_most=bound))
    return figures


def _cancel_queued(engine: Engine, cold: ColdPrompts) -> tuple[Client, Sequence]:
    cold.keep_busy()
    return engine.start(engine.code(SHORT_TOKENS, 0), max_new_tokens=SHORT_TOKENS)


def _cancel_prefill(engine: Engine, cold: ColdPrompts) -> tuple[Client, Sequence]:
    started = cold.start()
    wait_for_steps(engine, 1)
    time.sleep(_chance.uniform(0, MAX_GAP_S))
    return started


def _cancel_decode(engine: Engine, _cold: ColdPrompts) -> tuple[Client, Sequence]:
    started = engine.start(engine.code(WARM_TOKENS, 0), max_new_tokens=DECODED * 10, streaming=True)
    started[0].first.wait(TIMEOUT_S)
    time.sleep(_chance.uniform(0, MAX_GAP_S))
    return started


def tokens_after_cancel(
    engine: Engine, phase: str, begin: Callable[[Engine, ColdPrompts], tuple[Client, Sequence]], cold: ColdPrompts
) -> list[int]:
    """By the engine's counter, for `CANCELS` cancels that found the sequence in this phase."""
    counters = engine.loop.counters
    computed: list[int] = []
    while len(computed) < CANCELS:
        client, sequence = begin(engine, cold)
        before, found = counters.tokens_after_cancel, counters.cancelled_in.get(phase, 0)
        engine.loop.cancel(sequence)
        client.ended.wait(TIMEOUT_S)
        if counters.cancelled_in.get(phase, 0) > found:
            computed.append(counters.tokens_after_cancel - before)
    cold.stop()
    return computed


def cancels(engine: Engine) -> list[Figure]:
    """Tokens computed after a cancel, at worst; what the running step had begun cannot be taken back."""
    cold = ColdPrompts(engine)
    phases = (("queued", _cancel_queued, 0), ("prefill", _cancel_prefill, MAX_CHUNK), ("decode", _cancel_decode, 1))
    figures = []
    for phase, begin, bound in phases:
        most = max(tokens_after_cancel(engine, phase, begin, cold))
        meaning = f"tokens computed after a cancel, {phase}, most of {CANCELS}"
        figures.append(Figure(f"cancel_{phase}", meaning, most, "tokens", f"one step: {bound}", at_most=bound))
    return figures


def main() -> None:
    options = arguments(__doc__)
    with running_engine() as engine:
        times = chunk_times(engine)
        figures = [
            *verification(engine),
            *concurrency(engine),
            *prefill(times),
            *typing(engine),
            *chunked_prefill(engine),
            *cancels(engine),
        ]
    report_figures(Path(__file__).stem, figures, as_json=options.json)


if __name__ == "__main__":
    main()
