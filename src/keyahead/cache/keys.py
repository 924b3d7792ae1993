"""The names of anchors in Redis: keyed digests, from which neither text nor tenant can be told or guessed."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyahead.cache.anchors import Anchor

# Goes into every name and every derived key, so that processes with different formats never see each other's values.
FORMAT = "2"
MIN_KEY_BYTES = 32
_NAMING_BYTES = 32
_SEALING_BYTES = 64


def pack(fields: Iterable[str]) -> bytes:
    """One byte string for a sequence of texts; different sequences never give the same, because each text comes after its length."""
    encoded = [field.encode() for field in fields]
    return b"".join(len(field).to_bytes(4, "big") + field for field in encoded)


class Keyring:
    """The keys derived from the server key (HKDF, RFC 5869), one for each purpose."""

    def __init__(self, server_key: bytes) -> None:
        """Raises ValueError if the key is too short to be secret."""
        if len(server_key) < MIN_KEY_BYTES:
            raise ValueError(
                f"cache server_key: it has {len(server_key)} bytes, at least {MIN_KEY_BYTES} are needed; 'openssl rand -hex 32' makes one"
            )
        derive = HKDF(SHA256(), _NAMING_BYTES + _SEALING_BYTES, salt=None, info=b"keyahead prefix cache " + FORMAT.encode())
        material = derive.derive(server_key)
        self._naming = material[:_NAMING_BYTES]
        self.sealing = material[_NAMING_BYTES:]

    def name(self, anchor: Anchor) -> str:
        """The Redis key of an anchor."""
        return self.names([anchor])[0]

    def names(self, anchors: Sequence[Anchor]) -> list[str]:
        """The Redis keys of the places of one look-up, which differ only in the text above.

        The part in braces is the same for all of them, so a Redis Cluster keeps them in one slot and one round trip is enough.
        """
        *group, _ = anchors[0].fields()
        packed = pack(group)
        slot = self._digest(packed, 8)
        return [f"c:{FORMAT}:{{{slot}}}:{self._digest(packed + pack([anchor.above]), 16)}" for anchor in anchors]

    def _digest(self, packed: bytes, size: int) -> str:
        return hmac.digest(self._naming, packed, "sha256")[:size].hex()
