"""Which keys a person hits, and when: computed before the run from a seed, so that two systems get the same keys at the same moments.

A key is described by what it leaves: how much of the passage stands there, and which mistake, if any, after it. What a plugin would ask is
therefore known without replaying.

The plugin asks after each character, after deleting one, and after taking a suggestion, as Visual Studio Code's inline suggestions do; it
does not ask when the cursor is only moved. Enter brings the next line's indentation, as editors do; that is one key.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyahead.loadtest import pace
from keyahead.loadtest.texts import Passage, Source, TextError, deal, passages

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
START_WITHIN_S = 2.0
"""Typists begin at a random moment of this, not all at once."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and what stands in the document once it is hit."""

    at_s: float
    """The intended moment, from the typist's start."""
    passage: int
    position: int
    """Characters of the passage that are typed."""
    mistake: str = ""
    """Wrong characters after them, to be deleted again."""
    asks: bool = True
    """Whether a plugin asks for a suggestion then. A jump to another place is a key that does not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one typist does."""

    typist: int
    passages: tuple[Passage, ...]
    keys: tuple[Key, ...]


def make_plan(sources: Sequence[Source], seed: int, typist: int, typists: int, duration_s: float, *, repeat: bool = False) -> Plan:
    """The plan of one typist of so many for a duration. With `repeat`, the typist's files begin anew when all are typed.

    Raises:
        TextError: the files do not last for the duration.
    """
    rng = random.Random(f"{seed} typist {typist}")  # noqa: S311  # repeatable on purpose
    files = deal(sources, seed, typist, typists)
    chosen: list[Passage] = []
    keys: list[Key] = []
    now = rng.uniform(0, START_WITHIN_S)
    for passage in _all_passages(files, rng, repeat=repeat):
        chosen.append(passage)
        for key in _strokes(passage, len(chosen) - 1, now, rng):
            if key.at_s >= duration_s:
                return Plan(typist, tuple(chosen), tuple(keys))
            keys.append(key)
        now = keys[-1].at_s + pace.pause_s(rng)
    raise TextError(
        f"The texts of typist {typist} last for {now:.0f} s of {duration_s:.0f}: give more files, let fewer people type, or allow repeats."
    )


def _all_passages(files: Sequence[Source], rng: random.Random, *, repeat: bool) -> Iterator[Passage]:
    """The passages of all files; with `repeat` again and again, as long as a round has any."""
    while True:
        has_any = False
        for source in files:
            for passage in passages(source, rng):
                has_any = True
                yield passage
        if not (repeat and has_any):
            return


def _strokes(passage: Passage, number: int, start_s: float, rng: random.Random) -> Iterator[Key]:
    """The keys for one passage: the jump to it, then each character, with the mistakes and their corrections."""
    now = start_s
    yield Key(now, number, 0, asks=False)
    for start, end in pieces(passage.typed):
        if passage.typed[start].isalnum() and rng.random() < pace.MISTAKE_SHARE:
            for mistake in _mistake(passage.typed[start:], rng):
                now += pace.burst_s(rng)
                yield Key(now, number, start, mistake)
        now += pace.interval_s(rng)
        yield Key(now, number, end)


def _mistake(rest: str, rng: random.Random) -> Iterator[str]:
    """The wrong characters after each key of a mistake: one key too many or wrong, some more before it is seen, and back again."""
    wrong = rng.choice(_LETTERS.replace(rest[0].lower(), "")) + rest.partition("\n")[0][1 : rng.choice(pace.MISTAKE_KEYS)]
    yield from (wrong[:length] for length in range(1, len(wrong) + 1))
    yield from (wrong[:length] for length in range(len(wrong) - 1, -1, -1))


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """What each key inserts, as from and up to: a character, or a line end with the indentation of the line after it."""
    start = 0
    while start < len(text):
        end = start + 1
        if text[start] == "\n":
            while end < len(text) and text[end] in " \t":
                end += 1
        yield start, end
        start = end
