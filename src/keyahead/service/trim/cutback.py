"""Anytime answers: cutting a completion whose decoding was interrupted back to a boundary that can be shown."""

from __future__ import annotations

import re

from keyahead.service.trim.context import TrimContext
from keyahead.service.trim.lexical import QUOTES, tokens, unclosed

_WORD = re.compile(r"\w+")
_LAST_WORD = re.compile(r"\w+\Z")
_WORTH_BALANCING = 0.5
_SURE_TO_BE_THE_SAME = 3


def cut_back(raw: str, context: TrimContext) -> str:
    """The longest beginning of an interrupted completion that ends sensibly.

    That is behind the last whole line if there is one; otherwise before a string that was begun, or behind the last whole token, and where
    brackets balance if that keeps at least half of it. A last word counts as whole when the text around it has it, too. The half word
    stays when there is nothing else.
    """
    whole, _, last = raw.rpartition("\n")
    if whole.strip() or _begins_line_below(whole, last, context):
        return whole
    string = _unclosed_string(raw, context)
    text = raw if string is None else raw[:string]
    text = _without_half_word(text, context) if string is None else text
    brackets = unclosed(text, context.around.syntax, context.around.inside)
    balanced = text[: brackets[0]] if brackets else text
    if len(balanced.strip()) >= max(1, _WORTH_BALANCING * len(text.strip())):
        text = balanced
    return text if text.strip() or string is not None else raw


def _begins_line_below(whole: str, last: str, context: TrimContext) -> bool:
    """Whether the unfinished line is the beginning of the line that follows the cursor's."""
    around = context.around
    line = last.strip() if whole or "\n" in whole else (around.line + last).strip()
    return len(line) >= _SURE_TO_BE_THE_SAME and not around.rest.strip() and around.below.strip().startswith(line)


def _unclosed_string(raw: str, context: TrimContext) -> int | None:
    """Where a string begins in the completion that is still open at its end; None when there is none."""
    around = context.around
    for token in tokens(raw, around.syntax, around.inside):
        inherited = around.inside and token.start == 0
        if token.mark in QUOTES and token.reaches(len(raw)) and not inherited:
            return token.start
    return None


def _without_half_word(text: str, context: TrimContext) -> str:
    """The text without its last word, unless that word is known to be whole."""
    last = _LAST_WORD.search(text)
    if not last:
        return text
    before = _LAST_WORD.search(context.around.line) if not last.start() else None
    word = (before[0] if before else "") + last[0]
    around = context.around.tail[: len(context.around.tail) - len(before[0])] if before else context.around.tail
    known = any(word in _WORD.findall(part) for part in (around, context.around.head, text[: last.start()]))
    return text if known else text[: last.start()]
