"""Where drafts come from: texts that the one being written may go on like.

Every source answers the same question with the same means: where has the end of what is written occurred before, and what came then? They
differ in their texts, in how long a match must be to count, and in how often they are right, which the arbiter learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from keyahead.service.drafting.match import LONGEST, longest_match

GUESS_CHARS = 128
"""Length of a guess: more than the 24 tokens an engine verifies at once, at some 4 characters each."""
_SHORTEST_IN_SUGGESTION = 3
"""A suggestion was made for this very place, so little evidence tells where in it the cursor is by now."""
_SHORTEST_IN_DOCUMENT = 3
_NEAR_BEFORE = 32 << 10
_NEAR_AFTER = 16 << 10
_CONTEXT_CHARS = 64 << 10


@dataclass(frozen=True, slots=True)
class Guess:
    """What may come next."""

    text: str
    whole: bool
    """Whether its text ended there, rather than being cut at `GUESS_CHARS`."""
    matched: int
    """Characters of evidence."""
    taken: bool | None = None
    """What became of the suggestion it comes from."""


class Source(Protocol):
    """One place to look for guesses."""

    @property
    def name(self) -> str:
        """For metrics and the arbiter's statistics."""

    def guess(self, written: str) -> Guess | None:
        """What may follow the end of `written`: the document before the cursor and what has been decoded behind it. Well below 1 ms."""


@dataclass(frozen=True, slots=True)
class Suggested:
    """A completion that was offered once, with the end of the text it was to continue."""

    before: str
    text: str
    taken: bool | None = None
    """Whether any of it came into the text by the user's will; None as long as nobody has said."""


@dataclass(frozen=True, slots=True)
class Suggestions:
    """Earlier suggestions, the newest first: typed past, edited on the way, rejected or renamed, they are realigned to the cursor."""

    name: str
    offered: Sequence[Suggested]

    def guess(self, written: str) -> Guess | None:
        """The continuation of the suggestion in which the end of `written` matches longest; of equals, the newest."""
        best: Guess | None = None
        for each in self.offered:
            whole = each.before + each.text
            match = longest_match(written[-LONGEST:], whole, _SHORTEST_IN_SUGGESTION)
            # A match in the text before the suggestion says nothing about the suggestion.
            if match and match.end >= len(each.before) and (best is None or match.length > best.matched):
                best = _guess(whole, match.end, match.length, taken=each.taken) or best
        return best


@dataclass(frozen=True, slots=True)
class Document:
    """The document around the cursor, its context files and what was deleted of late."""

    others: tuple[str, ...]
    name: str = "document"

    @classmethod
    def of(cls, suffix: str, context: Iterable[str], deleted: str) -> Document:
        """Only what is near is searched, so that a search takes no longer in a large file."""
        room = _CONTEXT_CHARS
        texts = [deleted, suffix[:_NEAR_AFTER]]
        for each in context:
            texts.append(each[:room])
            room -= len(texts[-1])
        return cls(tuple(text for text in texts if text))

    def guess(self, written: str) -> Guess | None:
        """The continuation of the longest match; of equals, the one before the cursor."""
        tail, near = written[-LONGEST:], written[-_NEAR_BEFORE:]
        best: Guess | None = None
        # Less its last character, or the end of what is written would be found at the end of what is written.
        if match := longest_match(tail, near[:-1], _SHORTEST_IN_DOCUMENT):
            best = _guess(near, match.end, match.length)
        for text in self.others:
            shortest = best.matched + 1 if best else _SHORTEST_IN_DOCUMENT
            if match := longest_match(tail, text, shortest):
                best = _guess(text, match.end, match.length) or best
        return best


def _guess(text: str, start: int, matched: int, *, taken: bool | None = None) -> Guess | None:
    found = text[start : start + GUESS_CHARS]
    return Guess(found, whole=len(found) < GUESS_CHARS, matched=matched, taken=taken) if found else None
