"""A stored block opens for its own tokens, model and tenant, and for nothing else."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.engine.contract import BLOCK_TOKENS
from keyahead.engine.cpu.blocks import chain_digest, root_digest
from keyahead.engine.cpu.kv_seal import BadBlockError, BlockId, Sealer, block_ids

KEY = bytes(range(32))
SEALER = Sealer(KEY, b"model")
PAYLOAD = b"rows of keys and values"

# A tiny alphabet, so that chains share beginnings and blocks.
prompts = st.lists(st.sampled_from([[1] * BLOCK_TOKENS, [2] * BLOCK_TOKENS, [1] * 31 + [2]]), min_size=1, max_size=3).map(
    lambda blocks: tuple(itertools.chain.from_iterable(blocks))
)


def last(namespace: str, tokens: tuple[int, ...]) -> BlockId:
    return block_ids(namespace, tokens)[-1]


def test_a_block_is_named_as_in_the_pool() -> None:
    """Only full blocks count; parents are the chained hashes that the pool uses."""
    tokens = tuple(range(3 * BLOCK_TOKENS - 1))
    first, second = block_ids("a", tokens)
    assert (first.parent, second.parent) == (root_digest("a"), chain_digest(root_digest("a"), tokens[:BLOCK_TOKENS]))
    assert (first.tokens, second.tokens) == (tokens[:BLOCK_TOKENS], tokens[BLOCK_TOKENS : 2 * BLOCK_TOKENS])
    assert second.prefix == tokens[: 2 * BLOCK_TOKENS]


@given(prompts, prompts, st.sampled_from(["", "a", "b"]), st.sampled_from(["", "a", "b"]))
def test_a_value_opens_for_its_own_block_only(tokens: tuple[int, ...], others: tuple[int, ...], namespace: str, another: str) -> None:
    """Whatever else the reader takes it for, another beginning, other tokens, another tenant, is refused, and has another name."""
    block, other = last(namespace, tokens), last(another, others)
    value = SEALER.seal(block, PAYLOAD)
    if (namespace, tokens) == (another, others):
        assert SEALER.open(other, value) == PAYLOAD
        assert SEALER.name(other) == SEALER.name(block)
        return
    assert SEALER.name(other) != SEALER.name(block)
    with pytest.raises(BadBlockError):
        SEALER.open(other, value)


def test_tokens_count_even_where_the_hash_is_the_same() -> None:
    """Were two chains to collide in their digest, the value would still open for the tokens it was sealed for only."""
    block = last("", (1,) * BLOCK_TOKENS + (2,) * BLOCK_TOKENS)
    collision = BlockId("", (3,) * BLOCK_TOKENS + (2,) * BLOCK_TOKENS, block.parent)
    assert SEALER.name(collision) == SEALER.name(block)
    with pytest.raises(BadBlockError):
        SEALER.open(collision, SEALER.seal(block, PAYLOAD))


@pytest.mark.parametrize("other", [Sealer(KEY, b"another model"), Sealer(bytes(32), b"model")])
def test_another_model_or_key_has_other_names_and_opens_nothing(other: Sealer) -> None:
    """Engines that do not agree on what the bytes mean, or do not know the secret, never meet."""
    block = last("", (1,) * BLOCK_TOKENS)
    assert other.name(block) != SEALER.name(block)
    with pytest.raises(BadBlockError):
        other.open(block, SEALER.seal(block, PAYLOAD))


@given(st.data())
def test_a_damaged_value_is_refused(data: st.DataObject) -> None:
    """Cut short anywhere, grown, or with one bit turned."""
    block = last("", (1,) * BLOCK_TOKENS)
    value = SEALER.seal(block, PAYLOAD)
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    turned = bytearray(value)
    turned[bit // 8] ^= 1 << bit % 8
    for damaged in (bytes(turned), value[: data.draw(st.integers(0, len(value) - 1))], value + b"\0"):
        with pytest.raises(BadBlockError):
            SEALER.open(block, damaged)


def test_neither_tokens_nor_tenant_nor_payload_are_to_be_seen() -> None:
    """A sealed value differs each time, and holds nothing in clear."""
    block = last("kanarienvogel", tuple(range(70000, 70000 + BLOCK_TOKENS)))
    values = [SEALER.seal(block, PAYLOAD), SEALER.seal(block, PAYLOAD)]
    assert values[0] != values[1]
    for value in (*values, SEALER.name(block).encode()):
        assert PAYLOAD[:8] not in value
        assert b"kanarienvogel" not in value
        assert (70000).to_bytes(4, "little") not in value
