"""Where completions hang, and which of them still fits: pure functions over text.

A completion hangs at the *start of the line* it was asked on, not at the cursor, so typing on does not change its place. The place is
known by the text just above that line and the text just below the cursor; edits further away do not move it. Several completions may hang
at one place, each with what its line held when it was asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from keyahead.cache.interface import Entry, Scope

# The text above a line that must be the same: this many lines, but not more characters. It is a third of the 48 lines that the design's
# comparison of prompts used: a suggestion outlives edits that are far away, yet not the edit of the function it belongs to.
ABOVE_LINES = 16
ABOVE_CHARS = 1024
# The text after the cursor that must be the same: up to the end of the second line with anything on it (the rest of the cursor's own line
# counts as one), but not more characters.
BELOW_LINES = 2
BELOW_CHARS = 128
_BELOW = re.compile(rf"(?:\s*\S.*){{1,{BELOW_LINES}}}")
# A longer line is treated as if it were broken here, so that minified files have small places, too.
LINE_CHARS = 1024
# The places of one look-up: the cursor's line and eight above it, since a suggestion may be typed through over line ends.
LOOKUP_PLACES = 9
# Completions kept at one place, the newest first.
CANDIDATES = 8


class Anchor(NamedTuple):
    """A place where completions hang."""

    scope: Scope
    above: str
    below: str

    def fields(self) -> tuple[str, ...]:
        """All that tells this anchor from others."""
        scope = self.scope
        return scope.tenant, scope.model, scope.prompt_version, scope.parameters, self.below, self.above


class Place(NamedTuple):
    """An anchor as the cursor sees it."""

    anchor: Anchor
    since: str
    """The text from the anchor to the cursor."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completion at its anchor."""

    line: str
    """The text from the anchor to the cursor when the completion was asked."""
    entry: Entry
    number: int = field(default=0, compare=False)
    """Order of its arrival in this process's memory; no part of what it is."""

    def typed(self, since: str) -> int | None:
        """Characters of the completion typed by now, or None if it does not fit or has nothing left; deleted text is not wanted back."""
        if len(since) >= len(self.line) + len(self.entry.text) or not since.startswith(self.line):
            return None
        return len(since) - len(self.line) if self.entry.text.startswith(since[len(self.line) :]) else None


class Found(NamedTuple):
    """The candidate that fits best."""

    anchor: Anchor
    candidate: Candidate
    typed: int

    def remainder(self) -> Entry:
        """What is left of it to show."""
        return self.candidate.entry.after(self.typed)


def locate(scope: Scope, prefix: str, suffix: str) -> Iterator[Place]:
    """The places to look at for this cursor, the nearest first, each worked out when asked for; a new completion hangs at the first."""
    head = _BELOW.match(suffix, 0, BELOW_CHARS)
    below = head[0].rstrip() if head else ""
    for start in islice(_line_starts(prefix), LOOKUP_PLACES):
        yield Place(Anchor(scope, _above(prefix, start), below), prefix[start:])


def best(place: Place, candidates: Iterable[Candidate]) -> Found | None:
    """Of the candidates of one place, newest first: the newest that was asked exactly here, else the newest that has been typed through."""
    found = None
    for candidate in candidates:
        typed = candidate.typed(place.since)
        if typed == 0:
            return Found(place.anchor, candidate, 0)
        if found is None and typed is not None:
            found = Found(place.anchor, candidate, typed)
    return found


def add(candidates: Iterable[Candidate], new: Candidate) -> tuple[Candidate, ...]:
    """The candidates of a place once `new` has come: newest first, none twice, not too many."""
    return (new, *islice((old for old in candidates if old != new), CANDIDATES - 1))


def _line_starts(prefix: str) -> Iterator[int]:
    """Where the lines of `prefix` start, the last line first; a long line starts again every LINE_CHARS characters."""
    end = len(prefix)
    while end >= 0:
        start = prefix.rfind("\n", 0, end) + 1
        last = start + (end - start) // LINE_CHARS * LINE_CHARS
        yield from range(last, start - 1, -LINE_CHARS)
        end = start - 1


def _above(prefix: str, start: int) -> str:
    lines = prefix[max(0, start - ABOVE_CHARS) : start].rsplit("\n", ABOVE_LINES + 1)
    return "\n".join(lines[-ABOVE_LINES - 1 :])  # The last is what stands of a long line before its break; elsewhere nothing.
