"""The longest end of one text that stands in another: how a draft is found in what was written before.

A suffix automaton answers this in one pass but must be built and grown with every key. The texts here are small (a document's
neighbourhood, a few suggestions), so `str.rfind`, which runs at memory speed, finds the same match by bisection: an end of k characters
can only occur where that of k - 1 does.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 64
"""Characters of a match beyond which more are no better evidence."""


@dataclass(frozen=True, slots=True)
class Match:
    """An occurrence of the end of a text in another."""

    length: int
    """Characters that agree."""
    end: int
    """Where they end in the other text; what stands there is the guess."""


def longest_match(tail: str, text: str, shortest: int) -> Match | None:
    """The last occurrence in `text` of the longest possible end of `tail`; None if not even `shortest` characters occur."""
    low, high = shortest, min(len(tail), LONGEST)
    if low > high or tail[-low:] not in text:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if tail[-middle:] in text:
            low = middle
        else:
            high = middle - 1
    return Match(low, text.rfind(tail[-low:]) + low)
