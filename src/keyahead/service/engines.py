"""Which engines there are, and which of them serves whom: a state machine without a connection, a clock or a task.

An engine keeps the KV of what it has read. So the requests of a session go to one engine, found by rendezvous hashing (Thaler and
Ravishankar, 1998): every process with the same list finds the same one, an engine that goes gives its sessions to all the others, one that
comes takes its share from all of them, and no other session moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keyahead.service.model import Query


@dataclass(frozen=True, slots=True)
class Change:
    """What a look-up of names has changed."""

    joined: frozenset[str]
    left: frozenset[str]


class Roster:
    """The addresses of the engines. A name may stand for several, as that of a headless Service of Kubernetes does."""

    def __init__(self, names: Sequence[str]) -> None:
        """Nothing is known of the names yet."""
        self._found: dict[str, frozenset[str]] = dict.fromkeys(names, frozenset())

    @property
    def addresses(self) -> frozenset[str]:
        """All that are in use."""
        return frozenset().union(*self._found.values())

    def resolved(self, name: str, addresses: Iterable[str]) -> Change:
        """A name has been looked up. An answer without addresses changes nothing: engines that serve are worth more than a name server."""
        before = self.addresses
        self._found[name] = frozenset(addresses) or self._found[name]
        after = self.addresses
        return Change(after - before, before - after)

    def ranked(self, key: str) -> list[str]:
        """All addresses in the order in which they serve this key: the first that is ready does."""
        return sorted(self.addresses, key=lambda address: _score(key, address), reverse=True)


def key_of(query: Query) -> str:
    """What keeps requests together: their editor's buffer, their session or, without either, their document."""
    return f"{query.tenant}\0{query.home or query.session_id or query.path}"


def _score(key: str, address: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{address}".encode(), digest_size=8).digest()
