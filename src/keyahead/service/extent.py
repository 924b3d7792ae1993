"""How much AUTO shows where no block has been opened: lines, but not less than a useful piece."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

ENOUGH_TOKENS = 6
"""The median suggestion shown, and near the median accepted (8), in 2022's Copilot (data/typing.json, suggestion_tokens)."""


def num_tokens(text: str, token_ends: Sequence[int]) -> int:
    """Tokens that `text` takes, given the offsets at which they end; one that it takes only in part counts."""
    return min(bisect_left(token_ends, len(text)) + 1, len(token_ends)) if text else 0


def is_whole(text: str, raw: str) -> bool:
    """Whether the last line of what trimming has left of `raw` is whole: its line end has been decoded, and was trimmed off."""
    return bool(text.strip()) and raw[len(text) :].lstrip(" \t").startswith("\n")


def first_lines(text: str, token_ends: Sequence[int], least: int = ENOUGH_TOKENS, *, whole: bool = False) -> str | None:
    """The text up to the first line end behind at least so many tokens, one of them not blank; None if it has none.

    The rest of a line is often only a bracket or two, hardly worth showing by itself: then the next line comes along. A text whose last
    line is `whole` has a line end behind it, too.
    """
    if len(token_ends) < least:
        return None
    blank = len(text) - len(text.lstrip())
    end = (f"{text}\n" if whole else text).find("\n", max(blank, token_ends[least - 1] - 1))
    return text[:end].rstrip() if end >= 0 else None
