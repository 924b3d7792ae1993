"""The block pool's bookkeeping against a simple model of it."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keyahead.engine.contract import BLOCK_TOKENS
from keyahead.engine.cpu.blocks import Block, BlockPool, chain_digest, root_digest


def keep(pool: BlockPool, namespace: str, tokens: list[int]) -> None:
    """Compute a sequence as the engine would: find, allocate, register, release."""
    match = pool.match(namespace, tokens)
    blocks, parent = list(match.blocks), root_digest(namespace)
    for block in blocks:
        parent = chain_digest(parent, block.tokens)
    if match.source is not None:
        pool.release([match.source])
    for start in range(len(blocks) * BLOCK_TOKENS, len(tokens), BLOCK_TOKENS):
        fresh = pool.allocate()
        assert fresh is not None
        blocks.append(fresh)
        piece = tuple(tokens[start : start + BLOCK_TOKENS])
        pool.register(fresh, parent, piece)
        parent = chain_digest(parent, piece)
    pool.release(blocks)


def found(pool: BlockPool, namespace: str, tokens: list[int]) -> int:
    """How many tokens the pool knows, leaving it as it was."""
    match = pool.match(namespace, tokens)
    pool.release(match.blocks)
    if match.source is not None:
        pool.release([match.source])
    return match.num_tokens


def test_one_more_token_finds_all_before_it() -> None:
    """A prompt that grows by a token needs only that token computed, wherever the block boundary lies."""
    pool = BlockPool(16)
    for length in range(1, 100):
        tokens = list(range(length))
        assert found(pool, "", tokens) == max(0, length - 1)
        keep(pool, "", tokens)
    pool.check_integrity()


def test_typing_leaves_no_trail_of_partial_blocks() -> None:
    """A hundred keys in one block's worth of text occupy one block, not a hundred."""
    pool = BlockPool(8)
    for length in range(1, BLOCK_TOKENS):
        keep(pool, "", list(range(length)))
    assert pool.num_evicted == 0
    assert found(pool, "", list(range(BLOCK_TOKENS - 1))) == BLOCK_TOKENS - 1


def test_namespaces_share_nothing() -> None:
    """What one tenant computed is not found by another, and still found by the first."""
    pool = BlockPool(8)
    keep(pool, "a", list(range(70)))
    assert found(pool, "b", list(range(70))) == 0
    assert found(pool, "a", list(range(70))) == 70


def test_the_same_tokens_after_another_beginning_are_not_found() -> None:
    """A block belongs to everything before it, not to its own tokens alone."""
    pool = BlockPool(8)
    keep(pool, "", [1] * BLOCK_TOKENS + [2] * BLOCK_TOKENS)
    assert found(pool, "", [3] * BLOCK_TOKENS + [2] * BLOCK_TOKENS) == 0


def test_the_least_recently_used_goes_first_and_a_chain_from_its_end() -> None:
    """Under a fixed budget the oldest sequence loses its last block before its first."""
    pool = BlockPool(4)
    keep(pool, "", [1] * (2 * BLOCK_TOKENS))
    keep(pool, "", [2] * (2 * BLOCK_TOKENS))
    keep(pool, "", [3] * BLOCK_TOKENS)
    assert found(pool, "", [1] * (2 * BLOCK_TOKENS)) == BLOCK_TOKENS
    assert found(pool, "", [2] * (2 * BLOCK_TOKENS)) == 2 * BLOCK_TOKENS


def test_blocks_in_use_are_never_given_away() -> None:
    """When every block is in use there is none to allocate."""
    pool = BlockPool(2)
    assert isinstance(pool.allocate(), Block)
    assert isinstance(pool.allocate(), Block)
    assert pool.allocate() is None


class Pool(RuleBasedStateMachine):
    """Random sequences over a tiny alphabet, so that they share beginnings, under a small budget."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6)
        self.known: dict[int, tuple[int, ...]] = {}
        self.held: list[Block] = []

    @rule(head=st.integers(0, 2), length=st.integers(1, 3 * BLOCK_TOKENS), namespace=st.sampled_from("ab"))
    @precondition(lambda self: len(self.held) <= 3)
    def compute(self, head: int, length: int, namespace: str) -> None:
        """A sequence is computed and released, if it fits."""
        tokens = [head] * 40 + [7] * max(0, length - 40)
        if -(-length // BLOCK_TOKENS) <= self.pool.num_available:
            keep(self.pool, namespace, tokens[:length])

    @rule(head=st.integers(0, 2), length=st.integers(1, 3 * BLOCK_TOKENS), namespace=st.sampled_from("ab"))
    def look_up(self, head: int, length: int, namespace: str) -> None:
        """Whatever is found is really the beginning that was asked for."""
        tokens = [head] * 40 + [7] * max(0, length - 40)
        match = self.pool.match(namespace, tokens[:length])
        held = [token for block in match.blocks for token in block.tokens]
        rows = list(match.source.tokens[: match.rows]) if match.source else []
        assert held + rows == tokens[: match.num_tokens]
        self.pool.release(match.blocks)
        if match.source:
            self.pool.release([match.source])

    @rule()
    @precondition(lambda self: self.pool.num_available > 0)
    def hold(self) -> None:
        """Somebody takes a block and keeps it."""
        block = self.pool.allocate()
        assert block is not None
        self.held.append(block)

    @rule()
    @precondition(lambda self: self.held)
    def let_go(self) -> None:
        """Somebody gives a block back."""
        self.pool.release([self.held.pop()])

    @invariant()
    def consistent(self) -> None:
        """Every block is in exactly one place."""
        self.pool.check_integrity()
        assert self.pool.num_available + len(self.held) == self.pool.num_blocks


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(0, 200_000), max_size=40), st.lists(st.integers(0, 200_000), max_size=40))
def test_digests_of_different_tokens_differ(a: list[int], b: list[int]) -> None:
    """A block's name tells its tokens and its parent apart."""
    root = root_digest("")
    assert (chain_digest(root, tuple(a)) == chain_digest(root, tuple(b))) == (a == b)
    assert chain_digest(root, tuple(a)) != chain_digest(root_digest("x"), tuple(a))
