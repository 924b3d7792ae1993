"""Values in Redis: sealed, so that a dump tells nothing, and bound to the text they were stored for, so that none is served elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from keyahead.cache.anchors import Anchor, Candidate
from keyahead.cache.interface import Entry
from keyahead.cache.keys import Keyring, pack


class BadValue(Exception):
    """Not a value of this cache, or not one of this anchor."""


class _Record(msgspec.Struct, array_like=True, frozen=True):
    line: str
    text: str
    finish_reason: str
    completion_tokens: int
    token_ends: tuple[int, ...]
    p_accept: float


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Record)


class Codec:
    """Candidates to bytes and back, with AES-SIV (RFC 5297).

    The anchor's whole text is the associated data: a value opens only for the very text it was stored for, even if two anchors had the same
    name. AES-SIV is deterministic, so a candidate stored twice gives equal bytes and Redis can tell that it has it already.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._cipher = AESSIV(keyring.sealing)

    def seal(self, anchor: Anchor, candidate: Candidate) -> bytes:
        """The value to store for a candidate."""
        entry = candidate.entry
        record = _Record(candidate.line, entry.text, entry.finish_reason, entry.completion_tokens, entry.token_ends, entry.p_accept)
        return self._cipher.encrypt(_encoder.encode(record), [pack(anchor.fields())])

    def open(self, anchor: Anchor, values: Iterable[bytes]) -> list[Candidate]:
        """The candidates in an anchor's values. Raises BadValue if one is damaged, of another format, or was stored for another text."""
        place = [pack(anchor.fields())]
        try:
            records = [_decoder.decode(self._cipher.decrypt(value, place)) for value in values]
        except (InvalidTag, ValueError, msgspec.DecodeError) as error:
            raise BadValue(type(error).__name__) from None
        return [
            Candidate(record.line, Entry(record.text, record.finish_reason, record.completion_tokens, record.token_ends, record.p_accept))
            for record in records
        ]
