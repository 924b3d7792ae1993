"""What the engine still has to read of a prompt, how fast it reads, and what to ask meanwhile.

The engine keeps the KV of what it has read, and says so only afterwards. So the service keeps a list of what it has had it read: an
estimate that errs on the cold side, since other replicas and cancelled prefills warm prompts, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache

from keyahead.service.model import Query
from keyahead.service.prompt import Prompt, PromptBuilder

_PIECE = 16
"""Tokens to a digest: the estimate may be so many too high, a third of what an automatic request can read in time on two cores."""
_MAX_PIECES = 16384 // _PIECE
"""As many tokens as the CPU engine keeps by default."""
_MIN_OBSERVED = 128
"""A shorter prefill says more about a step and a call than about the rate. The first suggestion after a start has some 41 tokens; by it an
engine that reads 450 tokens a second seemed to read 100 to 400, and cold sessions were refused for one another's prompts."""
_MIN_SHORTENED = 20
"""A prompt of fewer tokens, two lines, is not worth asking."""
_PREFILL_PART = 0.35
"""Of the time there is, what reading the prompt may take: of 160 ms, that leaves time for three steps on two cores."""
_SMOOTHING = 0.2
_ASSUMED_S_PER_TOKEN = 1 / 500
"""Until the engine has been seen to read: two cores with AVX-512 (docs/design.md). Too slow a guess shortens one prompt for nothing."""


class ReadPrompts:
    """Which beginnings of prompts the engine has read, by digests. No text and no tokens are kept."""

    def __init__(self) -> None:
        self._pieces: LRUCache[bytes, None] = LRUCache(_MAX_PIECES)

    def cold_tokens(self, namespace: str, tokens: Sequence[int]) -> int:
        """Tokens behind the longest beginning that has been read in this namespace."""
        warm = 0
        for digest in _chain(namespace, tokens):
            if digest not in self._pieces:
                break
            warm += _PIECE
        return len(tokens) - warm

    def clear(self) -> None:
        """The engine may have been restarted: it has read nothing."""
        self._pieces.clear()

    def add(self, namespace: str, tokens: Sequence[int]) -> None:
        """These have been read."""
        for digest in _chain(namespace, tokens):
            self._pieces[digest] = None


def _chain(namespace: str, tokens: Sequence[int]) -> Iterator[bytes]:
    data = np.asarray(tokens, dtype="<i4").tobytes()
    digest = hashlib.blake2b(namespace.encode(), digest_size=16).digest()
    for start in range(0, len(data) - 4 * _PIECE + 1, 4 * _PIECE):
        digest = hashlib.blake2b(digest + data[start : start + 4 * _PIECE], digest_size=16).digest()
        yield digest


class PrefillRate:
    """How fast the engine reads when nothing else is in its way; unknown until it has been seen.

    Seconds per token are averaged, not tokens per second: so a prompt that was warm without our knowing counts for little.
    """

    def __init__(self) -> None:
        self.s_per_token: float | None = None

    def observe(self, cold_tokens: int, seconds: float) -> None:
        """A prompt, alone at the engine, took so long to its first token."""
        if cold_tokens < _MIN_OBSERVED:
            return
        seen = seconds / cold_tokens
        self.s_per_token = seen if self.s_per_token is None else self.s_per_token + _SMOOTHING * (seen - self.s_per_token)

    def seconds(self, tokens: int) -> float:
        """Time to read them; 0 while nothing is known."""
        return tokens * (self.s_per_token or 0.0)

    def tokens(self, seconds: float) -> int:
        """What can be read in a time."""
        return int(seconds / (self.s_per_token or _ASSUMED_S_PER_TOKEN))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask the engine for a query."""

    prompt: Prompt
    cold_tokens: int
    """Tokens of `prompt` that the engine has not read yet."""
    cold_s: float
    """Seconds that it needs to read them; 0 while its rate is unknown."""
    behind: Prompt | None = None
    """The whole prompt, to be read behind a shortened one."""


class Planner:
    """Whole prompts where there is time to read them, shortened ones where there is not."""

    def __init__(self, builder: PromptBuilder, read: ReadPrompts, rate: PrefillRate) -> None:
        self._builder = builder
        self._read = read
        self._rate = rate

    def plan(self, query: Query, seconds: float) -> Plan:
        """For a query that has so long; about 1 ms of tokenizing and 0.1 ms of digests."""
        whole = self._builder.build(query)
        cold = self._read.cold_tokens(query.tenant, whole.tokens)
        max_tokens = self._rate.tokens(_PREFILL_PART * seconds)
        if cold <= max_tokens or max_tokens < _MIN_SHORTENED:
            return Plan(whole, cold, self._rate.seconds(cold))
        short = self._builder.shortened(query, max_tokens)
        cold = self._read.cold_tokens(query.tenant, short.tokens)
        return Plan(short, cold, self._rate.seconds(cold), whole)
