"""The state of one request in the engine."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from keyahead.engine.contract import BLOCK_TOKENS, EngineRequest, WorkClass
from keyahead.engine.cpu.blocks import Block, BlockPool, Digest, Match, chain_digest, root_digest
from keyahead.engine.cpu.fairness import LEVELS
from keyahead.engine.cpu.lora import Loaded

NEVER = float("inf")
_RANKS = {work_class: rank for rank, work_class in enumerate(WorkClass)}


class Phase(enum.Enum):
    """Where a sequence stands; what a cancel finds it doing."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"


class Kind(enum.IntEnum):
    """What kind of work a sequence is now, in the order in which the kinds are served."""

    WITHIN_SHARE = 0
    BEYOND_SHARE = 1
    BACKGROUND = 2


class Finish(enum.Enum):
    """Why a sequence ended."""

    END = "end"
    STOP_WORD = "stop_word"
    LENGTH = "length"
    VERIFIED = "verified"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"


@dataclass(slots=True, eq=False)
class Sequence:
    """One request: its tokens, how many of them have KV, and the blocks that hold it.

    Everything before `num_computed` has KV; what follows is still to be computed. Decoding is the case of one token left.
    """

    request: EngineRequest
    deadline: float = NEVER
    """Seconds on the scheduler's clock: the order of work, and the end of the sequence."""
    serial: int = 0
    """Order of arrival, which decides between equal deadlines."""
    level: int = 0
    """How much of its share of the engine its tenant uses, as the scheduler found it last (`fairness.py`)."""
    arrival_ns: int = 0
    is_cancelled: Callable[[], bool] = lambda: False
    """Asks the transport whether the client is gone."""
    adapter: Loaded | None = None
    """What the model is changed by for it."""
    tokens: list[int] = field(init=False)
    num_computed: int = 0
    blocks: list[Block] = field(default_factory=list)
    drafts: tuple[int, ...] = field(init=False)
    """Drafts still to be verified."""
    log_probs: list[float] = field(default_factory=list)
    cancelled: bool = False
    held: bool = False
    """Waits for KV from the store (`cold_starts.py`), so nothing of it may be scheduled."""
    finish: Finish | None = None
    num_reused: int = 0
    """Prompt tokens whose KV was found."""
    num_accepted: int = 0
    new_blocks: int = 0
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    _chain: list[Digest] = field(init=False)
    """Digest of the root and of each full block that has been registered."""
    _stops: dict[int, list[tuple[int, ...]]] = field(init=False)
    """Stop words by their last token."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.input_ids)
        self.drafts = self.request.draft_ids
        self._chain = [root_digest(self.kv_namespace)]
        self._stops = {}
        for word in self.request.stop_words:
            self._stops.setdefault(word[-1], []).append(word)

    @property
    def kv_namespace(self) -> str:
        """Who may share its KV: the tenant's sequences with the same adapter. A namespace of a client has no zero byte."""
        return self.request.namespace if self.adapter is None else f"{self.request.namespace}\0{self.adapter.digest}"

    @property
    def kind(self) -> Kind:
        """What kind of work it is now."""
        if self.request.work_class is WorkClass.BACKGROUND:
            return Kind.BACKGROUND
        return Kind.BEYOND_SHARE if self.level >= LEVELS else Kind.WITHIN_SHARE

    @property
    def order(self) -> tuple[Kind, int, int, float, int]:
        """By kind and level, then by who waits for it, then by the earliest deadline."""
        return self.kind, self.level, _RANKS[self.request.work_class], self.deadline, self.serial

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.input_ids)

    @property
    def generated(self) -> list[int]:
        """Tokens decoded so far."""
        return self.tokens[self.num_prompt :]

    @property
    def num_pending(self) -> int:
        """Tokens without KV, drafts not counted."""
        return len(self.tokens) - self.num_computed

    @property
    def started(self) -> bool:
        """Whether it has been scheduled."""
        return self.first_scheduled_ns > 0

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        if not self.started:
            return Phase.QUEUED
        return Phase.PREFILL if len(self.tokens) == self.num_prompt else Phase.DECODE

    @property
    def parent(self) -> Digest:
        """The chain's end: what the next full block will be registered under."""
        return self._chain[-1]

    def append(self, token: int, log_prob: float | None, now_ns: int) -> None:
        """Take a decoded token, and end where the request says so."""
        if token == self.request.end_id:
            self.finish = Finish.END
            return
        self.tokens.append(token)
        if log_prob is not None:
            self.log_probs.append(log_prob)
        self.first_token_ns = self.first_token_ns or now_ns
        self.last_token_ns = now_ns
        if self._at_stop_word(token):
            self.finish = Finish.STOP_WORD
        elif len(self.generated) >= self.request.max_new_tokens:
            self.finish = Finish.LENGTH

    def _at_stop_word(self, token: int) -> bool:
        return any(tuple(self.generated[-len(word) :]) == word for word in self._stops.get(token, ()))

    def take(self, match: Match) -> None:
        """Begin with what is known already; the rows of `match.source` must be copied into the next block allocated."""
        self.blocks = match.blocks
        self.num_computed = self.num_reused = len(match.blocks) * BLOCK_TOKENS
        for block in match.blocks:
            self._chain.append(chain_digest(self.parent, block.tokens))

    def adopt(self, pool: BlockPool) -> None:
        """In mid-prefill, skip full blocks that another sequence has computed meanwhile."""
        while len(self.blocks) * BLOCK_TOKENS == self.num_computed and self.num_pending > BLOCK_TOKENS:
            block = pool.adopt(self.parent, self.tokens[self.num_computed : self.num_computed + BLOCK_TOKENS])
            if block is None:
                return
            self.blocks.append(block)
            self._chain.append(chain_digest(self.parent, block.tokens))
            self.num_computed += BLOCK_TOKENS
            self.num_reused += BLOCK_TOKENS

    def share(self, pool: BlockPool) -> None:
        """Make the full blocks computed so far findable by others."""
        while len(self._chain) * BLOCK_TOKENS <= self.num_computed:
            start = (len(self._chain) - 1) * BLOCK_TOKENS
            tokens = tuple(self.tokens[start : start + BLOCK_TOKENS])
            pool.register(self.blocks[start // BLOCK_TOKENS], self.parent, tokens)
            self._chain.append(chain_digest(self.parent, tokens))

    def release(self, pool: BlockPool) -> None:
        """Leave the blocks, keeping what was computed findable, the last partial block included."""
        self.share(pool)
        start = (len(self._chain) - 1) * BLOCK_TOKENS
        if start < self.num_computed:
            pool.register(self.blocks[start // BLOCK_TOKENS], self.parent, tuple(self.tokens[start : self.num_computed]))
        pool.release(self.blocks)
        self.blocks = []
        self.num_computed = 0
        del self._chain[1:]
