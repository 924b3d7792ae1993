"""What the prefix cache offers its users: the nouns, the interface, and the events to count."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Tier = Literal["memory", "redis"]
ReadOutcome = Literal["hit", "miss", "late", "error", "busy", "open"]
WriteOutcome = Literal["stored", "dropped", "error", "over_quota"]
BreakerState = Literal["closed", "open", "half_open"]


class Scope(NamedTuple):
    """Within what a completion may be served again; two requests share one only if every field is equal."""

    tenant: str
    """From verified credentials, never from the request. Add the user where the operator wants users kept apart."""
    model: str
    """Fingerprint of the weights."""
    prompt_version: str
    parameters: str
    """Everything else that shapes the answer: mode, max_tokens, language, a digest of the context files."""


class Entry(NamedTuple):
    """One completion, as it was answered."""

    text: str
    finish_reason: str
    completion_tokens: int
    token_ends: tuple[int, ...]
    """Offset in `text`, in characters, at which each token ends; ascending. It tells how many tokens a remainder has."""
    p_accept: float = 0.0
    """How likely it is to be taken, as its maker thought."""

    def after(self, typed: int) -> Entry:
        """What is left once the first `typed` characters have been typed; a token typed only in part still counts."""
        gone = bisect_right(self.token_ends, typed) if typed else 0
        ends = tuple([end - typed for end in self.token_ends[gone:]])
        return Entry(self.text[typed:], self.finish_reason, self.completion_tokens - gone, ends, self.p_accept)


class Hit(NamedTuple):
    """A completion that fits at the cursor."""

    entry: Entry
    """What is left to show; its text is never empty."""
    tier: Tier
    typed: int
    """Characters typed since the completion was stored; 0 when it was stored for exactly this position."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A completion that hangs near the cursor, whether or not it fits there."""

    line: str
    """The text from its anchor to the cursor when it was asked."""
    text: str
    """The whole completion."""
    since: str
    """The text from its anchor to the cursor now."""


class PrefixCache(Protocol):
    """Completions by the text around the cursor."""

    def at_hand(self, scope: Scope, prefix: str, suffix: str) -> Hit | None:
        """The stored completion that continues `prefix`, if it lies in memory."""
        ...

    async def fetch(self, scope: Scope, prefix: str, suffix: str, budget_s: float) -> Hit | None:
        """It from elsewhere, when memory has none, or None. Never raises, and never waits longer than `budget_s` seconds."""
        ...

    def neighbours(self, scope: Scope, prefix: str, suffix: str) -> list[Neighbour]:
        """What hangs at the places of a look-up, the newest first and at most 8, from memory alone: also what a look-up would not offer,
        because something else has been typed since.
        """
        ...

    def store(self, scope: Scope, prefix: str, suffix: str, entry: Entry) -> None:
        """Remember a completion of this position. Returns at once; an empty text is not stored."""
        ...

    async def aclose(self) -> None:
        """Finish what is being written, for a moment at most, and close all connections."""
        ...


class CacheEvents:
    """What happens in the cache, for metrics: override what is to be counted. Nothing here carries text."""

    def hit(self, tier: Tier, typed: int) -> None:
        """A look-up found a completion, `typed` characters of which have been typed since."""

    def miss(self) -> None:
        """A look-up found nothing in any tier."""

    def redis_read(self, outcome: ReadOutcome) -> None:
        """Memory had nothing and Redis was asked, or would have been (`busy`: too many reads under way, `open`: breaker)."""

    def redis_write(self, outcome: WriteOutcome, count: int) -> None:
        """So many completions were stored in Redis, dropped before they were sent, lost in an error, or beyond their tenant's quota."""

    def breaker(self, state: BreakerState) -> None:
        """The breaker in front of Redis has changed to this state."""
