"""Repetition: within a line, among lines, and between two lines that are almost the same."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# Words and operators; quotes are left out so that no cut falls between one and what it quotes.
_TOKEN = re.compile(r"\w+|([^\w\s\"'`])\1*")
# How many tokens must follow a period before it counts as degenerate, by the period's length: as the Copilot client judges repetition
# (microsoft/vscode-copilot-chat at 31acd00, isRepetitive: a period of 1 in 10 tokens, up to 10 in 30, up to 20 in 45, up to 30 in 60).
_DEGENERATE = ((1, 10), (10, 30), (20, 45), (30, 60))
_LONGEST_GROUP = 8
_SHORT_GROUP = 2
# One edit in so many characters still counts as the same line; stricter than Tabby's and Continue's 5 and 10 %, under which parallel lines
# ("dx = a.x", "dy = a.y") are taken for repetitions.
_CHARACTERS_PER_EDIT = 30
_LONGEST_COMPARED = 200


def first_period(line: str) -> int | None:
    """Where a line that goes round in circles should end: behind the first round. None when it does not.

    The period is guessed from the last place where a token stood and dropped at the first token that does not fit, so the time is linear.
    A token at the very end is not looked at: it may still grow.
    """
    found: list[re.Match[str]] = []
    last_seen: dict[str, int] = {}
    period = run = 0
    needed: float = math.inf
    for index, match in enumerate(_TOKEN.finditer(line)):
        if match.end() == len(line):
            break
        token = match[0]
        found.append(match)
        if period and found[index - period][0] == token:
            run += 1
        else:
            period, run = index - last_seen.get(token, index), 1
            needed = next((total - period for longest, total in _DEGENERATE if 0 < period <= longest), math.inf)
        last_seen[token] = index
        if run >= needed:
            return found[index - run].end()
    return None


def repeated_group(lines: Sequence[str]) -> int | None:
    """How many of the last lines only repeat the group of lines before them; None when they do not.

    One or two lines must come three times, longer groups twice; groups without a letter (rows of numbers, closing brackets) may repeat.
    """
    for size in range(1, min(_LONGEST_GROUP, len(lines) // 2) + 1):
        times = 3 if size <= _SHORT_GROUP else 2
        repeated = size * (times - 1)
        if (
            len(lines) >= size * times
            and lines[-repeated:] == lines[-repeated - size : -size]
            and any(character.isalpha() for line in lines[-size:] for character in line)
        ):
            return repeated
    return None


def same_line(one: str, other: str) -> bool:
    """Whether two lines are the same but for blanks and, if they are long, a few characters."""
    one, other = " ".join(one.split()), " ".join(other.split())
    edits = len(other) // _CHARACTERS_PER_EDIT if len(other) <= _LONGEST_COMPARED else 0
    return one == other or (bool(edits) and abs(len(one) - len(other)) <= edits and _distance(one, other, edits) <= edits)


def _distance(one: str, other: str, limit: int) -> int:
    """Levenshtein's edit distance if it is at most the limit, else some number above it; only cells that near the diagonal are computed."""
    above = {column: column for column in range(limit + 1)}
    for index, character in enumerate(one, 1):
        row = dict[int, int]()
        for column in range(max(0, index - limit), min(len(other), index + limit) + 1):
            replaced = above.get(column - 1, limit) + (not column or character != other[column - 1])
            row[column] = min(replaced, above.get(column, limit) + 1, row.get(column - 1, limit) + 1)
        above = row
    return above.get(len(other), limit + 1)
