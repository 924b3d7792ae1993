"""Stops: places where a completion ends for good, whatever would be decoded after them.

Each stop needs evidence that later text cannot take back, so that decoding can end as soon as one is found (`pipeline.is_finished`).
"""

from __future__ import annotations

import re

from keyahead.service.trim.context import Surroundings, TrimContext, closes_string
from keyahead.service.trim.lexical import HALF_CHARACTER, tokens
from keyahead.service.trim.lines import line_stop
from keyahead.service.trim.syntax import BRACKETS

# Special tokens of the catalogue's model families (Qwen2.5-Coder: <|…|>; StarCoder's, which SmolLM2 has too), control characters, bytes
# that were no UTF-8 (U+FFFD), and a carriage return without its newline.
_CONTROL = re.compile(
    r"<\|\w+\|>|<(?:fim_(?:prefix|middle|suffix|pad)|file_sep|repo_name|gh_stars|empty_output|issue_(?:start|comment|closed)|jupyter_\w+)>"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\ufffd)\ufffd++(?!\Z)|\r(?=[^\n])"
)
# The beginnings of the above, which an end of text leaves open.
_UNDECIDED = re.compile(r"(?:(?<!\ufffd)\ufffd+|\r|<(?:\|\w*\|?|[a-z_]*))\Z")
# A quote, a backslash, what it escapes, and as much as `syntax` grants to a code point's number.
_LONGEST_CHARACTER = 11


def find_stop(raw: str, context: TrimContext) -> int | None:
    """Where the raw completion ends for good; None when more text could still belong to it.

    For any text x: a stop found in `raw` is found at the same place in `raw + x`. That holds since each rule below cuts at or behind all
    the text that the rules after it have needed as evidence; so keep their order.
    """
    text, stop = _decided(raw, context.around), None
    for rule in (_control, _closed_already, line_stop):
        if (cut := rule(text, context)) is not None:
            text, stop = text[:cut], cut
    return stop


def _decided(raw: str, around: Surroundings) -> str:
    """The text less an end that more text might turn into something else: half a control token, half a character literal."""
    text = raw[: found.start()] if (found := _UNDECIDED.search(raw)) else raw
    if "'" in text[-_LONGEST_CHARACTER:]:
        half = (token.start for token in tokens(text, around.syntax, around.inside) if token.mark == HALF_CHARACTER)
        return text[: next(half, len(text))]
    return text


def _control(text: str, _context: TrimContext) -> int | None:
    """Ends before anything that is not text."""
    found = _CONTROL.search(text)
    return found.start() if found else None


def _closed_already(text: str, context: TrimContext) -> int | None:
    """Ends before a quote or bracket that closes what the suffix closes already, as behind an editor's automatic brackets."""
    around, depth, surplus = context.around, 0, 0
    for token in tokens(text, around.syntax, around.inside):
        if token.start == 0 and token.mark == around.inside and token.closed and closes_string(around):
            return token.end - len(token.mark)
        if token.mark in BRACKETS:
            depth += 1
        elif token.mark in BRACKETS.values() and depth:
            depth -= 1
        elif token.mark in BRACKETS.values():
            surplus += 1
            if around.closable is not None and surplus > around.closable:
                return token.start
    return None
