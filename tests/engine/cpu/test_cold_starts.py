"""Who waits for the store, for how long, and what its answers do to the pool; the store is a script, the KV memory a dictionary."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.engine.contract import BLOCK_TOKENS, EngineRequest
from keyahead.engine.cpu.blocks import BlockPool, Digest, Tokens
from keyahead.engine.cpu.cold_starts import MAX_BUDGET_S, MAX_FETCH_BLOCKS, MIN_TOKENS, ColdStarts
from keyahead.engine.cpu.kv_seal import BlockId, block_ids
from keyahead.engine.cpu.scheduler import Limits, Scheduler
from keyahead.engine.cpu.sequence import Sequence

VOCAB = 10_000
LONG = 10 * BLOCK_TOKENS + 5


class ScriptedStore:
    """Remembers what is offered and asked, and answers when told to."""

    def __init__(self, *, well: bool = True) -> None:
        self.well = well
        self.blocks: dict[tuple[Digest, Tokens], bytes] = {}
        self.asked: list[tuple[list[BlockId], float, Callable[[list[bytes]], None]]] = []

    def fetch(self, blocks: list[BlockId], budget_s: float, deliver: Callable[[list[bytes]], None]) -> bool:
        if self.well:
            self.asked.append((blocks, budget_s, deliver))
        return self.well

    def answer(self) -> None:
        """Everything asked, with what is there."""
        for blocks, _, deliver in self.asked:
            payloads = []
            for block in blocks:
                if block.key not in self.blocks:
                    break
                payloads.append(self.blocks[block.key])
            deliver(payloads)
        self.asked.clear()

    def wants(self, key: tuple[Digest, Tokens]) -> bool:
        return key not in self.blocks

    def offer(self, block: BlockId, payload: bytes) -> None:
        self.blocks[block.key] = payload


class Memory(dict[int, bytes]):
    """KV by block; its "values" are the tokens they were computed from."""

    def read_block(self, index: int) -> bytes:
        return self[index]

    def write_block(self, index: int, payload: bytes) -> None:
        self[index] = payload


class Rig:
    """Scheduler, pool, memory and store as the loop has them."""

    def __init__(self, store: ScriptedStore | None, num_blocks: int = 64) -> None:
        self.scheduler = Scheduler(Limits(VOCAB, chunk=16, patience=4), BlockPool(num_blocks), lambda: 1)
        self.memory = Memory()
        self.store = store
        self.woken = 0
        self.cold = ColdStarts(self.scheduler.pool, self.memory, store, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def add(self, tokens: tuple[int, ...], namespace: str = "", now: float = 0.0, deadline: float = 1e9) -> Sequence:
        sequence = Sequence(EngineRequest(input_ids=tokens, max_new_tokens=2, namespace=namespace), deadline=deadline)
        self.scheduler.add(sequence)
        self.cold.admit(sequence, now)
        return sequence

    def step(self, now: float = 0.0) -> int:
        """One turn of the loop; how many tokens it has computed."""
        self.scheduler.reap(now)
        self.cold.settle(now)
        step = self.scheduler.schedule()
        for copy in step.copies:
            self.memory[copy.target] = self.memory[copy.source]
        for piece in step.slices:
            for place, token in enumerate(piece.tokens, piece.start):
                index = piece.blocks[place // BLOCK_TOKENS]
                rows = bytearray(self.memory.get(index, b"").ljust(8 * BLOCK_TOKENS, b"\0"))
                # What the KV of a token depends on: it and all before it.
                known = (*piece.sequence.tokens[:place], token)
                row = hash((piece.sequence.request.namespace, known)).to_bytes(8, "big", signed=True)
                rows[8 * (place % BLOCK_TOKENS) : 8 * (place % BLOCK_TOKENS) + 8] = row
                self.memory[index] = bytes(rows)
        sampled: list[list[tuple[int, float | None]]] = [[((piece.tokens[-1] + 1) % VOCAB, None)] for piece in step.slices if piece.samples]
        filled = self.cold.filled(step)
        self.scheduler.commit(step, sampled)
        self.cold.offer(filled)
        return sum(len(piece.tokens) for piece in step.slices)

    def finish(self, now: float = 0.0) -> int:
        """Steps until there is nothing to compute; how many tokens they have computed."""
        total = 0
        while computed := self.step(now):
            total += computed
        self.scheduler.pool.check_integrity()
        return total

    def check_memory(self, namespace: str, tokens: tuple[int, ...]) -> int:
        """Assert that whatever full blocks the pool knows of a prompt hold just its KV; how many they are."""
        blocks = block_ids(namespace, tokens)
        for place, block_id in enumerate(blocks):
            block = self.scheduler.pool.find(*block_id.key)
            if block is None:
                return place
            start = place * BLOCK_TOKENS
            rows = [hash((namespace, tokens[: start + row + 1])).to_bytes(8, "big", signed=True) for row in range(BLOCK_TOKENS)]
            assert self.memory[block.index] == b"".join(rows)
        return len(blocks)


def prompt(length: int = LONG, first: int = 0) -> tuple[int, ...]:
    return tuple(range(first, first + length))


def filled_store() -> ScriptedStore:
    """A store that another engine has given a long prompt to."""
    store = ScriptedStore()
    rig = Rig(store)
    rig.add(prompt())
    store.answer()
    rig.finish()
    return store


def test_what_another_engine_computed_is_not_computed_again() -> None:
    """Ten full blocks are found; the rest of the prompt and its last token are computed, and the output is the same."""
    rig = Rig(filled_store())
    sequence = rig.add(prompt())
    assert rig.step() == 0
    assert rig.store is not None
    rig.store.answer()
    assert rig.woken == 1
    assert rig.finish() == 5 + 1
    assert sequence.generated == [LONG, LONG + 1]
    assert rig.cold.counters.fetched_tokens == sequence.num_reused == 10 * BLOCK_TOKENS
    assert (rig.cold.counters.hits, rig.cold.counters.misses, rig.cold.counters.late) == (1, 0, 0)
    assert rig.check_memory("", prompt()) == 10


def test_a_miss_lets_the_sequence_go_at_once() -> None:
    """Nothing found is an answer, too."""
    store = ScriptedStore()
    rig = Rig(store)
    rig.add(prompt())
    store.answer()
    assert rig.finish() == LONG + 1
    assert rig.cold.counters.misses == 1


def test_the_wait_ends_with_its_budget() -> None:
    """Without an answer the sequence is computed from then on, and no sooner; what comes too late is used as far as it is of use."""
    rig = Rig(filled_store())
    rig.add(prompt(), now=5.0)
    until = 5.0 + 10 * BLOCK_TOKENS * 0.0001
    assert rig.cold.wait_s(5.0) == until - 5.0
    assert rig.step(until - 0.001) == 0
    assert rig.step(until) == 16
    assert rig.cold.wait_s(until) is None
    assert rig.store is not None
    rig.step(until)
    rig.store.answer()
    assert rig.finish(until) == 5 + 1
    assert (rig.cold.counters.hits, rig.cold.counters.late) == (0, 1)
    assert rig.check_memory("", prompt()) == 10


def test_the_longest_prompt_waits_no_longer_than_the_limit() -> None:
    """The budget grows with the tokens that might be found, up to a tenth of a second, and a reply's size is limited."""
    store = ScriptedStore()
    rig = Rig(store, num_blocks=200)
    rig.add(prompt(5000))
    blocks, budget_s, _ = store.asked[0]
    assert (len(blocks), budget_s) == (MAX_FETCH_BLOCKS, MAX_BUDGET_S)


def test_other_work_goes_on_while_a_sequence_waits() -> None:
    """A short request that comes later is answered first."""
    rig = Rig(ScriptedStore())
    held = rig.add(prompt())
    short = rig.add((1, 2, 3))
    assert rig.finish() == 3 + 1
    assert short.generated
    assert held.held


def test_a_sequence_that_ends_while_it_waits_is_forgotten() -> None:
    """Cancelled or past its deadline: the answer that comes for it changes nothing."""
    rig = Rig(filled_store())
    cancelled, overdue = rig.add(prompt()), rig.add(prompt(), deadline=0.001)
    cancelled.cancelled = True
    assert rig.step(0.002) == 0
    assert not rig.scheduler.sequences
    assert [cancelled.held, overdue.held] == [False, False]
    assert rig.store is not None
    rig.store.answer()
    rig.step(0.003)
    assert rig.scheduler.pool.num_available == 64
    assert rig.check_memory("", prompt()) == 0
    assert rig.cold.counters.late == 0


def test_only_what_is_long_and_unknown_is_asked_for() -> None:
    """A short prompt, a warm one, and any while the store is ill, are computed without waiting."""
    store = ScriptedStore()
    rig = Rig(store)
    assert not rig.add(prompt(MIN_TOKENS)).held
    rig.finish()
    store.well = False
    assert not rig.add(prompt()).held
    rig.finish()
    store.well = True
    assert not rig.add(prompt(LONG + 3)).held
    assert not store.asked


def test_only_what_the_pool_does_not_know_is_asked_for() -> None:
    """A longer prompt with a known beginning asks for the blocks behind it."""
    store = ScriptedStore()
    rig = Rig(store)
    rig.add(prompt())
    store.answer()
    rig.finish()
    rig.add(prompt(LONG + 200))
    assert [block.prefix for block in store.asked[0][0]] == [prompt(32 * count) for count in range(11, 17)]


def test_full_blocks_of_long_prompts_are_offered_and_nothing_else() -> None:
    """Neither what a model wrote nor the rest of a block, nor a prompt that is computed as quickly as asked for."""
    store = filled_store()
    assert set(store.blocks) == {block.key for block in block_ids("", prompt())}
    rig = Rig(store)
    rig.add(prompt(MIN_TOKENS - 1, first=5000))
    rig.finish()
    assert len(store.blocks) == 10


def test_what_was_decoded_is_offered_once_it_is_part_of_a_prompt() -> None:
    """A user who accepts a completion and types on leaves no gap in the chain, although its block was not filled by a prefill."""
    store = ScriptedStore(well=False)
    rig = Rig(store)
    begin = prompt(5 * BLOCK_TOKENS - 1)
    rig.add(begin)
    rig.finish()
    assert len(store.blocks) == 4
    rig.add((*begin, len(begin), len(begin) + 1, 7, 7))
    rig.finish()
    assert len(store.blocks) == 5


def test_tenants_never_find_each_others_blocks() -> None:
    """The same prompt in another namespace asks for other blocks; in the same one it finds them."""
    store = ScriptedStore()
    writer = Rig(store)
    writer.add(prompt(), namespace="a")
    store.answer()
    writer.finish()
    for namespace, computed in (("b", LONG + 1), ("a", 6)):
        rig = Rig(store)
        rig.add(prompt(), namespace=namespace)
        store.answer()
        assert rig.finish() == computed


def test_a_beginning_forgotten_meanwhile_makes_the_rest_useless() -> None:
    """Blocks whose chain the pool no longer knows are not loaded: they could not be found."""
    store = filled_store()
    rig = Rig(store, num_blocks=12)
    store.well = False
    rig.add(prompt(4 * BLOCK_TOKENS))
    rig.finish()
    store.well = True
    sequence = rig.add(prompt())
    assert store.asked
    assert store.asked[0][0][0].prefix == prompt(5 * BLOCK_TOKENS)
    taken = [rig.scheduler.pool.allocate() for _ in range(12)]
    rig.scheduler.pool.release([block for block in taken if block])
    store.answer()
    assert rig.step() == 16
    assert rig.cold.counters.fetched_tokens == 0
    assert sequence.num_reused == 0


def test_without_a_store_nothing_is_held() -> None:
    """As before."""
    rig = Rig(None)
    assert not rig.add(prompt()).held
    assert rig.finish() == LONG + 1


actions = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "step", "step", "answer", "ill", "expire", "cancel"]),
        st.integers(0, 2),  # the prompt's first token
        st.integers(MIN_TOKENS, 12 * BLOCK_TOKENS),
        st.sampled_from("ab"),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(actions, st.integers(14, 30))
def test_nothing_is_ever_decoded_from_another_prefix(plan: list[tuple[str, int, int, str]], num_blocks: int) -> None:
    """Whatever comes late, is evicted, cancelled or found: a block in the pool holds just the KV of the tokens it is known by."""
    store = filled_store()
    rig = Rig(store, num_blocks)
    now = 0.0
    asked: set[tuple[str, tuple[int, ...]]] = set()
    for action, first, length, namespace in plan:
        tokens = ((first,) * 64 + prompt(12 * BLOCK_TOKENS))[:length]
        if action == "ask":
            asked.add((namespace, tokens))
            rig.add(tokens, namespace, now)
        elif action == "step":
            rig.step(now)
        elif action == "answer":
            store.answer()
        elif action == "ill":
            store.well = not store.well
        elif action == "expire":
            now += MAX_BUDGET_S
        elif rig.scheduler.sequences:
            rig.scheduler.sequences[0].cancelled = True
        for each, its_tokens in asked:
            rig.check_memory(each, its_tokens)
    store.answer()
    rig.finish(now + MAX_BUDGET_S)
    assert rig.scheduler.pool.num_available == num_blocks
