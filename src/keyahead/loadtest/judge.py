"""What an answer was worth to the person who typed.

Two questions are kept apart. *When* did it come: within 200 ms of the intended key, before the next key, late, or never? And *what* was it
good for: which of the characters typed later did it show?

**Useful characters** are counted by key, so that no text position counts twice, however many answers contain it. A key counts as useful if,
when it was hit, what it typed stood on the screen as the first of the ghost text. Ghost text comes with an answer, shrinks as it is typed
through, and vanishes with the first key that departs from it. An answer that comes late is shown if what was typed since agrees with it,
as plugins do. Mistakes, their corrections and jumps are no text, so they neither count nor can be useful; a line end with the indentation
that the editor adds is one key.

**Predicted characters** are those that any answer contained, whether or not it came in time to be of use: what a slow system could have
been worth if nobody typed meanwhile. They are never fewer than the useful ones.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from keyahead.loadtest.plan import Key, pieces
from keyahead.loadtest.texts import Passage

ON_TIME_S = 0.2
"""The promise: from the key to the answer."""


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    SUPERSEDED = "superseded"
    """A newer key's request took its place before an answer came."""
    FAILED = "failed"
    UNANSWERED = "unanswered"
    """The run ended before it did."""


class Superseded(Exception):
    """A system dropped a question for a newer one."""


class Failed(Exception):
    """A system gave no answer; the text is a code, never what was sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system said."""

    text: str
    source: str = ""
    """Where it had the text from, by its own account."""
    unfinished: bool = False
    """More will come if it is asked again."""
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    """Where its time went, by its own account."""
    tokens_in: int = 0
    tokens_out: int = 0
    """What an API charges for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question that a plugin asks."""

    number: int
    """Counts up from 0 for each typist."""
    at_s: float
    """The intended moment: that of the key, not of sending."""
    passage: Passage
    passage_number: int
    position: int
    mistake: str
    follow_up: bool = False
    """Asked since the answer before was unfinished and no key came, not for a key."""

    @property
    def prefix(self) -> str:
        """The document before the cursor."""
        return self.passage.before + self.passage.typed[: self.position] + self.mistake

    @property
    def suffix(self) -> str:
        """The document after it."""
        return self.passage.after

    @property
    def truth(self) -> str:
        """What the person goes on to type; for a simulated system only."""
        return "" if self.mistake else self.passage.typed[self.position :]


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one question. Times are seconds from the typist's start."""

    typist: int
    number: int
    at_s: float
    sent_s: float
    done_s: float
    outcome: Outcome
    follow_up: bool
    detail: str = ""
    """The answer's source, or the code of the error."""
    characters: int = 0
    """Length of the answer without white space at its end."""
    agrees: int = 0
    """Of them, how many at the beginning are what the person went on to type."""
    before_next_key: bool = False
    """Whether it came before the person hit another key."""
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def latency_s(self) -> float:
        """From the intended moment."""
        return self.done_s - self.at_s

    @property
    def on_time(self) -> bool:
        """Whether it was answered within the promise."""
        return self.outcome is Outcome.ANSWERED and self.latency_s <= ON_TIME_S

    @property
    def painted(self) -> bool:
        """Whether there was something to see before the next key."""
        return self.before_next_key and self.characters > 0


@dataclass(frozen=True, slots=True)
class Typed:
    """A key that typed text."""

    at_s: float
    useful: bool
    predicted: bool
    taken: bool
    """Not hit at all, since it came with a suggestion that was taken."""


class Screen:
    """What one person sees: the passage as far as it is typed, and the ghost text after the cursor."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self.passage = self.position = 0
        self.mistake = ""
        self.ghost = ""
        self.shown_at_s = 0.0
        """When the ghost text appeared; typing through it does not renew that."""
        self._ghost_number = -1
        self._spans: list[tuple[int, int, int, float, bool, bool]] = []
        self._predicted: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def hit(self, key: Key, at_s: float) -> None:
        """A key of the plan is hit."""
        if key.passage != self.passage or key.mistake or self.mistake or key.position == self.position:
            self.ghost = ""
        else:
            inserted = self._typed[self.position : key.position]
            useful = self.ghost.startswith(inserted)
            self._spans.append((self.passage, self.position, key.position, at_s, useful, False))
            self.ghost = self.ghost[len(inserted) :] if useful else ""
        self.passage, self.position, self.mistake = key.passage, key.position, key.mistake

    def take(self, at_s: float) -> None:
        """The person takes the suggestion, which must be right."""
        for start, end in pieces(self.ghost):
            self._spans.append((self.passage, self.position + start, self.position + end, at_s, True, True))
        self.position += len(self.ghost)
        self.ghost = ""

    @property
    def is_right(self) -> bool:
        """Whether there is ghost text, and all of it is what comes next."""
        return bool(self.ghost) and not self.mistake and self._typed.startswith(self.ghost, self.position)

    def answer(self, ask: Ask, text: str, at_s: float) -> int:
        """An answer comes; how many of its characters, from its beginning, are what comes after the place it was asked for."""
        text = text.rstrip()
        agrees = 0 if ask.mistake else num_common(text, ask.passage.typed[ask.position :])
        self._predicted[ask.passage_number].append((ask.position, ask.position + agrees))
        ghost = self._rest(ask, text)
        if ghost and ask.number >= self._ghost_number:
            if not (self.ghost and ghost.startswith(self.ghost)):
                self.shown_at_s = at_s
            self.ghost, self._ghost_number = ghost, ask.number
        return agrees

    def _rest(self, ask: Ask, text: str) -> str:
        """What of an answer is still to be typed, if what was typed since it was asked for agrees with it."""
        if ask.passage_number != self.passage or ask.mistake != self.mistake or ask.position > self.position:
            return ""
        since = self._typed[ask.position : self.position]
        return text[len(since) :] if text.startswith(since) else ""

    def typed(self) -> list[Typed]:
        """All keys that typed text, judged by all answers that came."""
        merged = {number: _merge(ranges) for number, ranges in self._predicted.items()}
        return [
            Typed(at_s, useful, useful or _inside(start, end, merged.get(number, [])), taken)
            for number, start, end, at_s, useful, taken in self._spans
        ]

    def recent(self, since_s: float) -> list[Typed]:
        """The keys that typed text since a moment, the newest first; none of them counts as predicted if it was not useful."""
        spans = itertools.takewhile(lambda span: span[3] >= since_s, reversed(self._spans))
        return [Typed(at_s, useful, useful, taken) for _, _, _, at_s, useful, taken in spans]

    @property
    def _typed(self) -> str:
        return self._passages[self.passage].typed


def num_common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    for number, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its:
            return number
    return min(len(one), len(other))


def _merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _inside(start: int, end: int, ranges: list[tuple[int, int]]) -> bool:
    return any(low <= start and end <= high for low, high in ranges)
