"""Which tokens of which sequences go into the next step: the policy of the in-flight batcher.

Synchronous and without a clock of its own. A step is for the first of these that wants it:

1. tenants within their share of the engine's time (`fairness.py`);
2. tenants beyond it, those that are furthest beyond last;
3. background work, which nobody waits for.

Steps of the second and third kind and chunks of warming *yield*: they are kept short, so that whoever comes next does not wait long; so is
every chunk while more than one tenant is active. In steps of the first kind a few tokens of the second are *guests*, since they cost next
to nothing there. Otherwise a step holds

- every *short* piece, earliest deadline first: a decode token, drafts to verify, the few tokens that a key adds to a warm prompt;
- one *chunk* of a long prefill, when there is no short work or when prefill has waited `patience` steps. A warm request therefore waits
  for the chunk that runs when it arrives and seldom for another, while cold prompts still make progress under load.

A step is computed with one LoRA adapter, or none: with that of the first short piece, or, when prefill has waited long enough, of the first
long one. Sequences with others wait for steps of their own.

KV blocks run out for the last in this order first: that sequence gives its blocks back (they stay findable) and starts again later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from keyahead.engine.contract import BLOCK_TOKENS, MAX_DRAFTS, ContractError, EngineRequest, WorkClass
from keyahead.engine.cpu.blocks import BlockPool
from keyahead.engine.cpu.fairness import Shares
from keyahead.engine.cpu.sequence import Finish, Kind, Phase, Sequence

MIN_CHUNK = 8
MAX_CHUNK = 64
"""Beyond it a larger chunk is hardly more efficient (benchmarks/engine.py, prefill by chunk)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine accepts and how it divides its steps."""

    vocab_size: int
    max_context: int = 4096
    """Prompt, drafts and output of one request, in tokens."""
    max_drafts: int = MAX_DRAFTS
    max_sequences: int = 16
    """Sequences in one step."""
    max_queued: int = 256
    """Requests held at once; more are refused."""
    chunk: int = 32
    """Tokens of a long prefill in one step, at first; also the longest piece that counts as short."""
    chunk_ms: float = 200.0
    """A step with a chunk may delay an urgent request by this much, once: the whole of the latency objective, for a machine too slow to be
    both quick and fair. A step that takes longer, as behind a long context, halves the next chunk."""
    patience: int = 16
    """Steps that a long prefill waits at most for short work: the length of a usual answer."""
    yielding: int = 16
    """Tokens of a step that yields, short work or chunk: 47 ms, half more than a decode step, and 121 ms with 64 tokens (AVX-512)."""
    warming: int = 32
    """Tokens of a chunk of warming while one tenant alone is active: 70 ms, so that a key that comes still leaves time for an answer."""
    guests: int = 4
    """Tokens of tenants beyond their share in a step of others: it takes 3 % longer for 3 more (AVX-512)."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of one sequence that goes into a step."""

    sequence: Sequence
    start: int
    tokens: tuple[int, ...]
    """Tokens to compute, drafts at the end included."""
    num_drafts: int
    samples: bool
    """Whether logits are wanted: at the last token before the drafts, and at each draft."""

    @property
    def blocks(self) -> list[int]:
        """Indices of the blocks that hold the sequence so far and this slice."""
        return [block.index for block in self.sequence.blocks]


@dataclass(frozen=True, slots=True)
class Copy:
    """KV of one block to be copied into another before the step."""

    source: int
    target: int


@dataclass(slots=True)
class Step:
    """One forward pass."""

    slices: list[Slice] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)


@dataclass(slots=True)
class Counters:
    """What the engine has done since it started; all only grow."""

    steps: int = 0
    output_steps: int = 0
    """Steps that gave tokens; the others only read prompts."""
    output_tokens: int = 0
    """Tokens given: decoded, or drafted and accepted."""
    prefill_tokens: int = 0
    decode_tokens: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    reused_tokens: int = 0
    tokens_after_cancel: int = 0
    """Tokens computed for a sequence after its cancel was known: at most those of the step that was running."""
    preempted: int = 0
    yielding_steps: int = 0
    """Steps given to tenants beyond their share or to background work."""
    class_tokens: dict[str, int] = field(default_factory=dict)
    """Tokens computed by class of work."""
    finished: dict[str, int] = field(default_factory=dict)
    cancelled_in: dict[str, int] = field(default_factory=dict)


class Scheduler:
    """Owns the sequences and the block pool."""

    def __init__(self, limits: Limits, pool: BlockPool, now_ns: Callable[[], int]) -> None:
        self.limits = limits
        self.pool = pool
        self.counters = Counters()
        self.sequences: list[Sequence] = []
        self._now_ns = now_ns
        self.chunk = limits.chunk
        """Tokens of a long prefill in the next step that has one."""
        self._waited = 0
        self._arrivals = 0
        self._shares = Shares()

    def check(self, request: EngineRequest) -> None:
        """Raise ContractError for what this engine can never do."""
        limits = self.limits
        if "\0" in request.namespace:
            raise ContractError("cache_namespace: holds a zero byte")  # Which keeps it apart from an adapter's digest (`kv_namespace`).
        if not request.input_ids:
            raise ContractError("input_ids: empty, at least one token is needed")
        if request.max_new_tokens < 1:
            raise ContractError(f"request_output_len: {request.max_new_tokens}, expected at least 1")
        if len(request.draft_ids) > limits.max_drafts:
            message = f"draft_input_ids: {len(request.draft_ids)} drafts exceed this engine's limit of {limits.max_drafts}"
            raise ContractError(message)
        for name, ids in (("input_ids", request.input_ids), ("draft_input_ids", request.draft_ids)):
            if bad := [i for i in ids if not 0 <= i < limits.vocab_size]:
                raise ContractError(f"{name}: token {bad[0]} is not in the vocabulary of {limits.vocab_size}")
        total = len(request.input_ids) + len(request.draft_ids) + request.max_new_tokens
        room = min(limits.max_context, self.pool.num_blocks * BLOCK_TOKENS)
        if total > room:
            raise ContractError(f"input_ids: prompt, drafts and output make {total} tokens, the context holds {room}")
        bias = request.embedding_bias
        if bias is not None and bias.size != limits.vocab_size:
            raise ContractError(f"embedding_bias: {bias.size} values, expected one for each of {limits.vocab_size} tokens")

    def add(self, sequence: Sequence) -> None:
        """Take a checked sequence; ContractError when the queue is full."""
        if len(self.sequences) >= self.limits.max_queued:
            raise ContractError(f"input_ids: the engine's queue of {self.limits.max_queued} requests is full, retry later")
        self._arrivals += 1
        sequence.serial = self._arrivals
        self.sequences.append(sequence)

    def reap(self, now: float) -> list[Sequence]:
        """Drop what is cancelled or past its deadline, and return it."""
        ended = []
        for sequence in self.sequences:
            if sequence.cancelled:
                sequence.finish = Finish.CANCELLED
                ended.append(sequence)
            elif sequence.deadline <= now:
                sequence.finish = Finish.DEADLINE
                ended.append(sequence)
        self._remove(ended)
        return ended

    def schedule(self) -> Step:
        """The next step; empty when there is nothing to do."""
        step = Step()
        ordered = self._in_order()
        if not ordered:
            return step
        turn = [sequence for sequence in ordered if sequence.kind is ordered[0].kind]
        for sequence in turn:
            self._prepare(sequence, step)
        turn = self._alike(turn)
        if turn[0].kind is Kind.WITHIN_SHARE:
            self._fill(turn, self.limits.chunk + self.limits.max_sequences, step)
            guests = [each for each in ordered if each.kind is Kind.BEYOND_SHARE and each.adapter is turn[0].adapter]
            self._invite(guests, step)
        else:
            self.counters.yielding_steps += 1
            self._fill(turn, self.limits.yielding, step)
        return step

    def _alike(self, turn: list[Sequence]) -> list[Sequence]:
        """Those of a turn that are computed with the same adapter as the one that leads it."""
        long = [sequence for sequence in turn if not self._is_short(sequence)]
        short = [sequence for sequence in turn if self._is_short(sequence)]
        due = bool(long) and self._waited >= self.limits.patience
        leader = long[0] if due or not short else short[0]
        if long and not due and all(sequence.adapter is not leader.adapter for sequence in long):
            self._waited += 1  # `_fill` counts for those that it sees.
        return [sequence for sequence in turn if sequence.adapter is leader.adapter]

    def _in_order(self) -> list[Sequence]:
        """All sequences in the order of their turns, as their tenants' use of the engine stands now."""
        real = [sequence for sequence in self.sequences if sequence.kind is not Kind.BACKGROUND]
        weights = {sequence.request.namespace: sequence.request.weight for sequence in real}
        levels = self._shares.levels(weights, self._now_ns() / 1e9)
        for sequence in real:
            sequence.level = levels[sequence.request.namespace]
        return sorted((sequence for sequence in self.sequences if not sequence.held), key=lambda sequence: sequence.order)

    def _fill(self, sequences: list[Sequence], room: int, step: Step) -> None:
        """Short pieces until there are `room` tokens of them, then a chunk, if it is its turn."""
        short = [sequence for sequence in sequences if self._is_short(sequence)]
        for sequence in short[: self.limits.max_sequences]:
            if not step.slices or sequence.num_pending <= room:
                self._put(sequence, sequence.num_pending, step)
                room -= sequence.num_pending
        waiting = [sequence for sequence in sequences if sequence not in short]
        if waiting and (not step.slices or self._waited >= self.limits.patience):
            self._waited = 0
            self._put(waiting[0], min(waiting[0].num_pending, self._chunk_for(waiting[0])), step)
        elif waiting:
            self._waited += 1

    def _is_short(self, sequence: Sequence) -> bool:
        return sequence.num_pending <= (self.limits.yielding if _yields(sequence) else self.limits.chunk)

    def _chunk_for(self, sequence: Sequence) -> int:
        if self._shares.contended or sequence.kind is not Kind.WITHIN_SHARE:
            return min(self.chunk, self.limits.yielding)
        return min(self.chunk, self.limits.warming) if sequence.request.work_class is WorkClass.WARMING else self.chunk

    def _invite(self, sequences: list[Sequence], step: Step) -> None:
        """Shortest pieces of tenants beyond their share, as long as the step takes hardly longer."""
        room = self.limits.guests
        for sequence in sequences[: self.limits.max_sequences]:
            self._prepare(sequence, step)
            if sequence.num_pending + len(sequence.drafts) <= room:
                self._put(sequence, sequence.num_pending, step)
                room -= sequence.num_pending + len(sequence.drafts)

    def commit(self, step: Step, sampled: list[list[tuple[int, float | None]]]) -> list[tuple[Sequence, list[int]]]:
        """Book a computed step.

        Args:
            step: what `schedule` gave.
            sampled: for each slice that samples, in order, the target's own token (and its log-probability) at each sampled place.

        Returns:
            Sequences with the tokens each has gained; a sequence that ended has its `finish` set and is gone from here.

        """
        self.counters.steps += 1
        now_ns = self._now_ns()
        results = iter(sampled)
        gained = []
        for piece in step.slices:
            self._count(piece)
            piece.sequence.num_computed += len(piece.tokens) - piece.num_drafts
            if piece.samples:
                gained.append((piece.sequence, self._accept(piece, next(results), now_ns)))
            piece.sequence.share(self.pool)
        self.counters.output_steps += bool(gained)
        self.counters.output_tokens += sum(len(tokens) for _, tokens in gained)
        self._remove([sequence for sequence, _ in gained if sequence.finish is not None])
        return gained

    def adapt(self, step: Step, milliseconds: float) -> None:
        """Learn from how long a step took: charge its tenants, by tokens, and fit the chunk."""
        now, total = self._now_ns() / 1e9, sum(len(piece.tokens) for piece in step.slices)
        for piece in step.slices:
            if piece.sequence.kind is not Kind.BACKGROUND:
                self._shares.charge(piece.sequence.request.namespace, milliseconds * len(piece.tokens) / total, now)
        if not any(len(piece.tokens) >= self.chunk and not piece.samples for piece in step.slices):
            return
        if milliseconds > self.limits.chunk_ms:
            self.chunk = max(MIN_CHUNK, self.chunk // 2)
        elif milliseconds < self.limits.chunk_ms / 3:
            self.chunk = min(MAX_CHUNK, self.chunk * 2)

    def _accept(self, piece: Slice, targets: list[tuple[int, float | None]], now_ns: int) -> list[int]:
        """Greedy acceptance: drafts count as long as each equals the target's own token; the target's next token comes on top."""
        sequence = piece.sequence
        before = len(sequence.tokens)
        for position, (token, log_prob) in enumerate(targets):
            sequence.append(token, log_prob, now_ns)
            matches = position < piece.num_drafts and sequence.drafts[position] == token
            if matches and sequence.finish is None:
                sequence.num_accepted += 1
                sequence.num_computed += 1
            if sequence.finish is not None or not matches:
                break
        if piece.num_drafts and sequence.finish is None:
            sequence.finish = Finish.VERIFIED
        self.counters.accepted_draft_tokens += sequence.num_accepted if piece.num_drafts else 0
        return sequence.tokens[before:]

    def _prepare(self, sequence: Sequence, step: Step) -> None:
        """Find what is known of a sequence that has not begun, or that another has overtaken."""
        if sequence.blocks:
            sequence.adopt(self.pool)
            return
        match = self.pool.match(sequence.kv_namespace, sequence.tokens[:-1])
        sequence.take(match)
        sequence.first_scheduled_ns = sequence.first_scheduled_ns or self._now_ns()
        if match.source is not None:
            self._copy(sequence, match.source.index, match.rows, step)
            self.pool.release([match.source])

    def _copy(self, sequence: Sequence, source: int, rows: int, step: Step) -> None:
        """Begin a block with the rows of another; without a free block the rows are computed instead."""
        target = self.pool.allocate()
        if target is None:
            return
        step.copies.append(Copy(source, target.index))
        sequence.blocks.append(target)
        sequence.new_blocks += 1
        sequence.num_computed += rows
        sequence.num_reused += rows

    def _put(self, sequence: Sequence, count: int, step: Step) -> None:
        """Add the next `count` tokens, and the drafts if they come right behind, unless there is no memory for them."""
        samples = count == sequence.num_pending
        drafts = sequence.drafts if samples and len(sequence.tokens) == sequence.num_prompt else ()
        start = sequence.num_computed
        if not self._reserve(sequence, start + count + len(drafts), step):
            return
        tokens = (*sequence.tokens[start : start + count], *drafts)
        step.slices.append(Slice(sequence, start, tokens, len(drafts), samples))

    def _reserve(self, sequence: Sequence, num_tokens: int, step: Step) -> bool:
        while len(sequence.blocks) * BLOCK_TOKENS < num_tokens:
            block = self.pool.allocate()
            if block is not None:
                sequence.blocks.append(block)
                sequence.new_blocks += 1
            elif not self._preempt_after(sequence, step):
                return False
        return True

    def _preempt_after(self, sequence: Sequence, step: Step) -> bool:
        """Take the blocks of the last sequence whose turn is after this one's and that is not in the step already.

        Copies into its blocks stay in the step: they make true what `release` says those blocks hold.
        """
        busy = {piece.sequence for piece in step.slices}
        later = [s for s in self.sequences if s.blocks and s.order > sequence.order and s not in busy]
        if not later:
            return False
        victim = max(later, key=lambda s: s.order)
        victim.release(self.pool)
        self.counters.preempted += 1
        return True

    def _count(self, piece: Slice) -> None:
        counters = self.counters
        counters.draft_tokens += piece.num_drafts
        computed = len(piece.tokens) - piece.num_drafts
        if piece.sequence.phase is Phase.DECODE:
            counters.decode_tokens += computed
        else:
            counters.prefill_tokens += computed
        work_class = piece.sequence.request.work_class
        counters.class_tokens[work_class] = counters.class_tokens.get(work_class, 0) + len(piece.tokens)
        if piece.sequence.cancelled:
            counters.tokens_after_cancel += len(piece.tokens)

    def _remove(self, ended: list[Sequence]) -> None:
        for sequence in ended:
            self.counters.reused_tokens += sequence.num_reused
            name = str(sequence.finish and sequence.finish.value)
            self.counters.finished[name] = self.counters.finished.get(name, 0) + 1
            if sequence.cancelled:  # Also one whose last step was running by then: that step's tokens are counted, too.
                phase = sequence.phase.value
                self.counters.cancelled_in[phase] = self.counters.cancelled_in.get(phase, 0) + 1
            sequence.release(self.pool)
        if ended:
            gone = set(ended)
            self.sequences = [sequence for sequence in self.sequences if sequence not in gone]


def _yields(sequence: Sequence) -> bool:
    return sequence.kind is not Kind.WITHIN_SHARE or sequence.request.work_class is WorkClass.WARMING
