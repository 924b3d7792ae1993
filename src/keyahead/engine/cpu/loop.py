"""The engine's thread: schedule, run, deliver, for as long as there is work."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from keyahead.engine.contract import BLOCK_TOKENS, Array, ContractError, EngineRequest, EngineResponse, Perf
from keyahead.engine.cpu.blocks import BlockPool
from keyahead.engine.cpu.cold_starts import ColdStarts, Store
from keyahead.engine.cpu.lora import Loaded
from keyahead.engine.cpu.sampling import Sampled, sample
from keyahead.engine.cpu.scheduler import Limits, Scheduler, Step
from keyahead.engine.cpu.sequence import NEVER, Finish, Sequence

log = logging.getLogger(__name__)

CANCELLED = "CANCELLED: the request was cancelled"
DEADLINE = "DEADLINE_EXCEEDED: deadline_ms passed"


class Client(Protocol):
    """Who asked: gets the tokens of one request, on the engine's thread; must not block."""

    def send(self, response: EngineResponse, *, final: bool) -> None:
        """New tokens; the last response of a request is final."""

    def fail(self, message: str) -> None:
        """The request ended without a result."""

    def is_cancelled(self) -> bool:
        """Whether the client is gone."""


class ModelRunner(Protocol):
    """What the loop needs of the model."""

    def start(self, step: Step) -> None:
        """Begin to compute."""

    def finish(self) -> Array:
        """Wait for the logits, FP32 [rows, vocabulary]."""

    def read_block(self, index: int) -> bytes:
        """A block's KV, between steps."""

    def write_block(self, index: int, payload: bytes) -> None:
        """Replace it, between steps."""


class EngineLoop:
    """Continuous batching over one runner. `submit` and `cancel` may be called from any thread."""

    def __init__(
        self, runner: ModelRunner, limits: Limits, num_blocks: int, on_crash: Callable[[], None], store: Store | None = None
    ) -> None:
        """Start the thread; `on_crash` is called at its end if it ends by an error, when all clients have been told."""
        self._runner = runner
        self._on_crash = on_crash
        self._scheduler = Scheduler(limits, BlockPool(num_blocks), time.monotonic_ns)
        self.counters = self._scheduler.counters
        self._clients: dict[Sequence, Client] = {}
        self._inbox: deque[tuple[Sequence, Client]] = deque()
        self._wake = threading.Condition()
        self._cold = ColdStarts(self._scheduler.pool, runner, store, self._notify)
        self.store_counters = self._cold.counters
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest, client: Client, adapter: Loaded | None = None) -> Sequence:
        """Queue a request; the sequence is its handle. ContractError for one that can never be served or whose deadline has passed."""
        if request.deadline_ms is not None and request.deadline_ms <= 0:
            raise ContractError("deadline_ms: already past, refused before any work")
        self._scheduler.check(request)
        now = time.monotonic()
        sequence = Sequence(
            request,
            deadline=NEVER if request.deadline_ms is None else now + request.deadline_ms / 1e3,
            arrival_ns=time.monotonic_ns(),
            is_cancelled=client.is_cancelled,
            adapter=adapter,
        )
        with self._wake:
            if self._closing:
                raise ContractError("input_ids: the engine is shutting down")
            self._inbox.append((sequence, client))
            self._wake.notify()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence at the next step's boundary, wherever it is; harmless when it has ended."""
        with self._wake:
            sequence.cancelled = True
            self._wake.notify()

    def close(self) -> None:
        """Cancel everything and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            log.exception("the engine crashed")
            for client in [*self._clients.values(), *(client for _, client in self._inbox)]:
                client.fail("UNAVAILABLE: the engine crashed")
            self._on_crash()

    def _work(self) -> None:
        while self._receive():
            for sequence in self._scheduler.reap(time.monotonic()):
                self._fail(sequence, CANCELLED if sequence.finish is Finish.CANCELLED else DEADLINE)
            self._cold.settle(time.monotonic())
            step = self._scheduler.schedule()
            if step.slices:
                begin = time.perf_counter()
                sampled = self._compute(step)
                self._scheduler.adapt(step, (time.perf_counter() - begin) * 1e3)
                filled = self._cold.filled(step)
                self._deliver(step, sampled)
                self._cold.offer(filled)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _has_work(self) -> bool:
        sequences = self._scheduler.sequences
        return bool(self._inbox) or self._cold.has_answers or any(not each.held or each.cancelled for each in sequences)

    def _receive(self) -> bool:
        """Take new requests in, waiting while there is nothing to do; False when closing."""
        with self._wake:
            while not self._has_work() and not self._closing:
                if not self._wake.wait(self._cold.wait_s(time.monotonic())):
                    break
            arrived = list(self._inbox)
            self._inbox.clear()
            if self._closing:
                for sequence in self._scheduler.sequences:
                    sequence.cancelled = True
        for sequence, client in arrived:
            self._admit(sequence, client)
        if self._closing:
            for sequence in self._scheduler.reap(time.monotonic()):
                self._fail(sequence, "UNAVAILABLE: the engine is shutting down")
        return not self._closing

    def _admit(self, sequence: Sequence, client: Client) -> None:
        try:
            self._scheduler.add(sequence)
        except ContractError as error:
            client.fail(f"RESOURCE_EXHAUSTED: {error}")
        else:
            self._clients[sequence] = client
            self._cold.admit(sequence, time.monotonic())

    def _compute(self, step: Step) -> list[list[Sampled]]:
        """Run the model; while it computes, ask which clients are gone."""
        self._runner.start(step)
        for sequence in self._scheduler.sequences:
            sequence.cancelled = sequence.cancelled or sequence.is_cancelled()
        logits = self._runner.finish()
        sampled: list[list[Sampled]] = []
        row = 0
        for piece in step.slices:
            if not piece.samples:
                continue
            position = len(piece.sequence.generated)
            request = piece.sequence.request
            sampled.append([sample(logits[row + place], request, position + place) for place in range(piece.num_drafts + 1)])
            row += piece.num_drafts + 1
        return sampled

    def _deliver(self, step: Step, sampled: list[list[Sampled]]) -> None:
        for sequence, tokens in self._scheduler.commit(step, sampled):
            final = sequence.finish is not None
            if sequence.cancelled:
                if final:
                    self._fail(sequence, CANCELLED)
            elif final or sequence.request.streaming:
                client = self._clients.pop(sequence) if final else self._clients[sequence]
                client.send(_response(sequence, tokens, final=final), final=final)

    def _fail(self, sequence: Sequence, message: str) -> None:
        self._clients.pop(sequence).fail(message)


def _response(sequence: Sequence, gained: list[int], *, final: bool) -> EngineResponse:
    """A delta when streaming, else the whole output; statistics with the last."""
    request = sequence.request
    tokens = gained if request.streaming else sequence.generated
    log_probs = tuple(sequence.log_probs[-len(tokens) :] if tokens else ()) if request.return_log_probs else None
    if not request.streaming and not request.exclude_input:
        tokens = sequence.tokens
    perf = _perf(sequence) if final and request.return_perf_metrics else None
    return EngineResponse(tuple(tokens), log_probs, perf)


def _perf(sequence: Sequence) -> Perf:
    drafts = len(sequence.request.draft_ids)
    return Perf(
        new_blocks=sequence.new_blocks,
        reused_blocks=-(-sequence.num_reused // BLOCK_TOKENS),
        total_blocks=sequence.new_blocks + sequence.num_reused // BLOCK_TOKENS,
        arrival_ns=sequence.arrival_ns,
        first_scheduled_ns=sequence.first_scheduled_ns,
        first_token_ns=sequence.first_token_ns,
        last_token_ns=sequence.last_token_ns,
        acceptance_rate=sequence.num_accepted / drafts if drafts else 0.0,
        accepted_drafts=sequence.num_accepted,
        drafts=drafts,
    )
