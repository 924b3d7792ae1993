"""What a KV block is called in Redis, and how its values are sealed: a dump tells nothing, and a value opens for its own tokens only."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyahead.engine.contract import BLOCK_TOKENS
from keyahead.engine.cpu.blocks import Digest, Tokens, chain_digest, root_digest

_FORMAT = b"1"
_KEY_BYTES = 32
_NONCE_BYTES = 12
"""96 bits, drawn at random: NIST SP 800-38D allows 2^32 values to one key, more blocks than a Redis server lives to see."""


class BadBlockError(Exception):
    """Not a value of this model, or not one of these tokens."""


@dataclass(frozen=True, slots=True)
class BlockId:
    """What a full block stands for: its own tokens, behind all those before them."""

    namespace: str
    prefix: Tokens
    """All tokens from the prompt's first to the block's last."""
    parent: Digest
    """The chained hash of what comes before the block (see `blocks.py`)."""

    @property
    def tokens(self) -> Tokens:
        """The block's own."""
        return self.prefix[-BLOCK_TOKENS:]

    @property
    def key(self) -> tuple[Digest, Tokens]:
        """How the pool finds it: the parent's digest and the block's own tokens."""
        return self.parent, self.tokens


def block_ids(namespace: str, tokens: Tokens) -> list[BlockId]:
    """The full blocks of a prompt, in order."""
    ids: list[BlockId] = []
    parent = root_digest(namespace)
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        ids.append(BlockId(namespace, tokens[:end], parent))
        parent = chain_digest(parent, ids[-1].tokens)
    return ids


class Sealer:
    """The keys of one model, derived from the server key (HKDF, RFC 5869): another model, version or layout has other names and keys."""

    def __init__(self, server_key: bytes, fingerprint: bytes) -> None:
        """`fingerprint`: everything that the meaning of the stored bytes depends on."""
        derive = HKDF(SHA256(), 2 * _KEY_BYTES, salt=None, info=b"keyahead kv blocks " + _FORMAT + fingerprint)
        material = derive.derive(server_key)
        self._naming = material[:_KEY_BYTES]
        self._cipher = AESGCM(material[_KEY_BYTES:])

    def name(self, block: BlockId) -> str:
        """The Redis key: a keyed digest, from which neither tokens nor tenant can be told or guessed."""
        own = block.parent + np.array(block.tokens, dtype="<i4").tobytes()
        return f"k:{_FORMAT.decode()}:{hashlib.blake2b(own, key=self._naming, digest_size=16).hexdigest()}"

    def seal(self, block: BlockId, payload: bytes) -> bytes:
        """The value to store. AES-GCM, since a block is some hundred kilobytes: AES-SIV, the cache's choice, takes nine times as long."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, payload, _bound_to(block))

    def open(self, block: BlockId, value: bytes) -> bytes:
        """The payload of a value. Raises BadBlockError unless it was sealed whole, by this model, for just this block."""
        try:
            return self._cipher.decrypt(value[:_NONCE_BYTES], memoryview(value)[_NONCE_BYTES:], _bound_to(block))
        except (InvalidTag, ValueError) as error:
            raise BadBlockError(type(error).__name__) from None


def _bound_to(block: BlockId) -> bytes:
    """Associated data: every token that the KV depends on, not their hash. The namespace comes after its length, so no two are alike."""
    namespace = block.namespace.encode()
    return len(namespace).to_bytes(4, "big") + namespace + np.array(block.prefix, dtype="<i4").tobytes()
