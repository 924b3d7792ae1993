"""Sequences whose prompt the engine does not know: they wait, briefly, for KV blocks from the store, and theirs go there.

Synchronous, with the clock given; called by the engine's thread between steps. The store does its work elsewhere and answers into a queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from keyahead.engine.contract import BLOCK_TOKENS
from keyahead.engine.cpu.blocks import Block, BlockPool, Digest, Tokens
from keyahead.engine.cpu.kv_seal import BlockId, block_ids
from keyahead.engine.cpu.scheduler import Step
from keyahead.engine.cpu.sequence import Phase, Sequence

MIN_TOKENS = 128
"""Fewer unknown tokens are computed rather than asked for, and fewer known ones not kept: some 0.2 s of prefill."""
BUDGET_S_PER_TOKEN = 0.0001
"""How long a sequence waits for each token it might find: at most a tenth of its prefill at 1,000 tokens/s, twice what a fast machine
reaches, and several times what a token's 12 KiB take from a Redis server in the same rack."""
MAX_BUDGET_S = 0.1
"""The longest wait, whatever the prompt's length: half of the latency objective."""
MAX_FETCH_BLOCKS = 64
"""One reply's most: 2,048 tokens, 25 MB of the default model. Redis serves nobody else while it puts a reply together."""


class Store(Protocol):
    """What keeps blocks beyond this process (`kv_store.py`); nothing here blocks."""

    def fetch(self, blocks: list[BlockId], budget_s: float, deliver: Callable[[list[bytes]], None]) -> bool:
        """Ask for the next blocks of a chain; False if it cannot be asked now. `deliver` may be called on any thread."""

    def wants(self, key: tuple[Digest, Tokens]) -> bool:
        """Whether it has no such block (`BlockId.key`) and could take one."""

    def offer(self, block: BlockId, payload: bytes) -> None:
        """Keep a block that it wants."""


class KvMemory(Protocol):
    """The KV values of the pool's blocks; not to be touched while a step is computed."""

    def read_block(self, index: int) -> bytes:
        """A copy of a block's rows of all layers."""

    def write_block(self, index: int, payload: bytes) -> None:
        """Replace them."""


@dataclass(slots=True)
class StoreCounters:
    """What came of asking the store; all only grow."""

    hits: int = 0
    """Prompts of which at least one block was found."""
    misses: int = 0
    late: int = 0
    """Prompts whose budget ended before an answer."""
    fetched_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Filled:
    """Full blocks of a prompt that has just been computed further."""

    namespace: str
    prompt: tuple[int, ...]
    blocks: list[Block]


class ColdStarts:
    """The state between loop, pool and store. Without a store nothing is ever held and nothing kept."""

    def __init__(self, pool: BlockPool, memory: KvMemory, store: Store | None, wake: Callable[[], None]) -> None:
        """`wake` is called, on the store's thread, when `settle` has something to do."""
        self._pool = pool
        self._memory = memory
        self._store = store
        self._wake = wake
        self._held: dict[Sequence, float] = {}
        """Until when each waits."""
        self._answers: deque[tuple[Sequence, list[BlockId], list[bytes]]] = deque()
        self.counters = StoreCounters()

    @property
    def has_answers(self) -> bool:
        """Whether the store has said something that `settle` has not seen."""
        return bool(self._answers)

    def wait_s(self, now: float) -> float | None:
        """How long the first held sequence still waits; None if there is none."""
        return max(0.0, min(self._held.values()) - now) if self._held else None

    def admit(self, sequence: Sequence, now: float) -> None:
        """Look at a sequence that has just come, and hold it if the store can be asked for much of its prompt."""
        if self._store is None or len(sequence.tokens) <= MIN_TOKENS:
            return
        # The last token is always computed, for its logits.
        blocks = block_ids(sequence.kv_namespace, tuple(sequence.tokens[:-1]))
        missing = next((place for place, block in enumerate(blocks) if self._pool.find(block.parent, block.tokens) is None), len(blocks))
        wanted = blocks[missing : missing + MAX_FETCH_BLOCKS]
        num_tokens = len(wanted) * BLOCK_TOKENS
        if num_tokens < MIN_TOKENS:
            return
        budget_s = min(num_tokens * BUDGET_S_PER_TOKEN, MAX_BUDGET_S)
        if self._store.fetch(wanted, budget_s, partial(self._answer, sequence, wanted)):
            sequence.held = True
            self._held[sequence] = min(now + budget_s, sequence.deadline)

    def settle(self, now: float) -> None:
        """Take in what the store has answered, and let go the sequences whose time is up or that have ended."""
        while self._answers:
            sequence, blocks, payloads = self._answers.popleft()
            in_time = self._let_go(sequence)
            if in_time:
                self.counters.hits += bool(payloads)
                self.counters.misses += not payloads
            # A late answer still serves what the sequence has not computed yet.
            if sequence.finish is None and sequence.phase is not Phase.DECODE:
                self._take(blocks, payloads)
        for sequence in [sequence for sequence, until in self._held.items() if until <= now or sequence.finish is not None]:
            self._let_go(sequence)
            self.counters.late += sequence.finish is None

    def filled(self, step: Step) -> list[Filled]:
        """The full prompt blocks of a computed step, before `Scheduler.commit` lets the ended sequences' blocks go."""
        if self._store is None:
            return []
        found = []
        for piece in step.slices:
            sequence = piece.sequence
            end = min(piece.start + len(piece.tokens), sequence.num_prompt) // BLOCK_TOKENS
            if piece.start < sequence.num_prompt and end * BLOCK_TOKENS >= MIN_TOKENS:
                found.append(Filled(sequence.kv_namespace, sequence.request.input_ids, sequence.blocks[:end]))
        return found

    def offer(self, filled: list[Filled]) -> None:
        """Give the store what it does not have; after `commit` and before the next `schedule`, which may reuse a block's memory."""
        for chain in filled:
            for place, block in enumerate(chain.blocks):
                # Without a parent it is a copy of a block that has been offered.
                if block.parent is not None and self._store is not None and self._store.wants((block.parent, block.tokens)):
                    block_id = BlockId(chain.namespace, chain.prompt[: (place + 1) * BLOCK_TOKENS], block.parent)
                    self._store.offer(block_id, self._memory.read_block(block.index))

    def _answer(self, sequence: Sequence, blocks: list[BlockId], payloads: list[bytes]) -> None:
        self._answers.append((sequence, blocks, payloads))
        self._wake()

    def _let_go(self, sequence: Sequence) -> bool:
        """Whether it was held."""
        sequence.held = False
        return self._held.pop(sequence, None) is not None

    def _take(self, blocks: list[BlockId], payloads: list[bytes]) -> None:
        """Put payloads into the pool, behind what it knows of their chain, as if they had been computed and released."""
        before = block_ids(blocks[0].namespace, blocks[0].prefix[:-BLOCK_TOKENS])
        chain: list[Block] = []
        for block_id, payload in [*((known, None) for known in before), *zip(blocks, payloads, strict=False)]:
            # In the order of the chain: what comes behind a block that is not there (any more) could not be found.
            block = self._pool.adopt(*block_id.key) or self._load(block_id, payload)
            if block is None:
                break
            chain.append(block)
        self._pool.release(chain)

    def _load(self, block_id: BlockId, payload: bytes | None) -> Block | None:
        block = None if payload is None else self._pool.allocate()
        if block is not None and payload is not None:
            self._memory.write_block(block.index, payload)
            self._pool.register(block, block_id.parent, block_id.tokens)
            self.counters.fetched_tokens += BLOCK_TOKENS
        return block
