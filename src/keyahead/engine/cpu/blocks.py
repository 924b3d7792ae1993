"""Paged KV memory: which block holds which tokens, who uses it, and what may be forgotten.

A block is named by the chained hash of its tokens and of everything before them, so equal beginnings share memory without copying. A hit is
compared token by token, never trusted by hash alone. The KV values themselves live with the runner; this module is pure bookkeeping.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from keyahead.engine.contract import BLOCK_TOKENS

Digest = bytes
Tokens = tuple[int, ...]


def root_digest(namespace: str) -> Digest:
    """Where the chains of a namespace begin: two namespaces never share a block."""
    return hashlib.blake2b(namespace.encode(), digest_size=16, person=b"kv-root").digest()


def chain_digest(parent: Digest, tokens: Tokens) -> Digest:
    """The name of a block: its parent's name and its own tokens."""
    return hashlib.blake2b(parent + np.array(tokens, dtype="<i4").tobytes(), digest_size=16, person=b"kv-block").digest()


@dataclass(slots=True, eq=False)
class Block:
    """`BLOCK_TOKENS` rows of KV memory."""

    index: int
    refs: int = 0
    parent: Digest | None = None
    """Set while the block is findable, with `tokens`, whose KV it holds (fewer than a block's worth at the end of a sequence)."""
    tokens: Tokens = ()


@dataclass(slots=True)
class Match:
    """What is known of a token sequence: whole blocks to share, and rows to copy from one more."""

    blocks: list[Block] = field(default_factory=list)
    source: Block | None = None
    rows: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens whose KV need not be computed."""
        return len(self.blocks) * BLOCK_TOKENS + self.rows


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


class BlockPool:
    """All blocks of the engine, under a fixed budget, least recently used first out."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = [Block(index) for index in reversed(range(num_blocks))]
        self._idle: OrderedDict[int, Block] = OrderedDict()
        """Findable blocks that nobody uses, least recently used first."""
        self._children: dict[Digest, dict[Tokens, Block]] = {}
        self.num_evicted = 0

    @property
    def num_available(self) -> int:
        """Blocks that can be allocated now, forgetting idle ones."""
        return len(self._free) + len(self._idle)

    def match(self, namespace: str, tokens: Sequence[int]) -> Match:
        """The longest known beginning of `tokens`. Its blocks, and the source of the copy, gain a reference."""
        match = Match()
        parent = root_digest(namespace)
        while (block := self.find(parent, tokens[match.num_tokens : match.num_tokens + BLOCK_TOKENS])) is not None:
            self._acquire(block)
            match.blocks.append(block)
            parent = chain_digest(parent, block.tokens)
        rest = tokens[match.num_tokens : match.num_tokens + BLOCK_TOKENS]
        candidates = self._children.get(parent, {}).values()
        source = max(candidates, key=lambda block: _common(block.tokens, rest), default=None)
        if source is not None and (rows := _common(source.tokens, rest)):
            self._acquire(source)
            match.source, match.rows = source, rows
        return match

    def find(self, parent: Digest, tokens: Sequence[int]) -> Block | None:
        """The full block that holds just these tokens after `parent`."""
        if len(tokens) < BLOCK_TOKENS:
            return None
        return self._children.get(parent, {}).get(tuple(tokens))

    def adopt(self, parent: Digest, tokens: Sequence[int]) -> Block | None:
        """As `find`, with a reference gained."""
        block = self.find(parent, tokens)
        if block is not None:
            self._acquire(block)
        return block

    def allocate(self) -> Block | None:
        """An empty block with one reference, or None when all are in use."""
        if not self._free and not self._idle:
            return None
        if not self._free:
            self._forget(next(iter(self._idle.values())))
            self.num_evicted += 1
        block = self._free.pop()
        block.refs = 1
        return block

    def register(self, block: Block, parent: Digest, tokens: Tokens) -> None:
        """Make a computed block findable, unless another already holds the same."""
        if block.parent is not None or tokens in self._children.get(parent, {}):
            return
        self._forget_beginnings(parent, tokens)
        self._children.setdefault(parent, {})[tokens] = block
        block.parent, block.tokens = parent, tokens

    def release(self, blocks: Sequence[Block]) -> None:
        """Give back references, last block first, so that the end of a chain is forgotten before its beginning."""
        for block in reversed(blocks):
            block.refs -= 1
            if block.refs:
                continue
            if block.parent is None:
                self._free.append(block)
            else:
                self._idle[block.index] = block

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block is in exactly one place."""
        findable = {block.index for siblings in self._children.values() for block in siblings.values()}
        free = {block.index for block in self._free}
        assert all(block.refs == 0 for block in self._free)  # noqa: S101
        assert all(block.refs == 0 and block.parent is not None for block in self._idle.values())  # noqa: S101
        assert not free & findable and set(self._idle) <= findable  # noqa: S101, PT018
        assert len(free) == len(self._free)  # noqa: S101
        assert all(self._children.values())  # noqa: S101

    def _acquire(self, block: Block) -> None:
        block.refs += 1
        self._idle.pop(block.index, None)

    def _forget_beginnings(self, parent: Digest, tokens: Tokens) -> None:
        """A typist leaves a trail of partial blocks, each the beginning of the next: the newest is enough."""
        for old in list(self._children.get(parent, {}).values()):
            if old.refs == 0 and tokens[: len(old.tokens)] == old.tokens:
                self._forget(old)

    def _forget(self, block: Block) -> None:
        """Drop an idle block's content and put it with the free ones."""
        if block.parent is not None:
            siblings = self._children[block.parent]
            del siblings[block.tokens]
            if not siblings:
                del self._children[block.parent]
        block.parent, block.tokens = None, ()
        self._idle.pop(block.index, None)
        self._free.append(block)
