"""Cutting a raw model completion to what a person would accept.

Trimming only ever shortens: what it returns is a beginning of the raw completion. So ghost text that was streamed stays valid up to where
the answer ends, and an answer that has been typed through in part is still the answer. The steps are the union of those of Tabby, Continue,
Copilot and Cody that can be had by shortening. Time is linear in the completion; of prefix and suffix only what is near the cursor is read.
"""

from __future__ import annotations

import re

from keyahead.service.trim.context import TrimContext
from keyahead.service.trim.cutback import cut_back
from keyahead.service.trim.lexical import indent_of, joined, severs
from keyahead.service.trim.stops import find_stop

_LONGEST_OVERLAP = 256
# An overlap of operators alone is none: "= " and "= 1" may well be "== 1".
_REPEATED = re.compile(r"[\w)\]}>\"'`,;:]")
# Accepting a suggestion costs one key, so one character saves nothing.
_SHORTEST = 2


def trim(raw: str, context: TrimContext) -> str:
    """What is worth showing of a raw completion, always a beginning of it; "" when nothing is.

    Trimming a trimmed text as a complete one changes nothing. Never raises.
    """
    stop = find_stop(raw, context)
    text = raw[:stop]
    if stop is None and not context.complete:
        text = cut_back(raw, context)
    while (shorter := _once(text, context)) != text:
        text = shorter
    return text


def is_finished(raw: str, context: TrimContext) -> bool:
    """Whether the engine may stop: no text decoded after `raw` can change what `trim` returns."""
    return find_stop(raw, context) is not None


def _once(text: str, context: TrimContext) -> str:
    for step in STEPS:
        text = step(text, context)
    return text


def stop_at_end(text: str, context: TrimContext) -> str:
    """Apply the stops to all of the text, its last line being finished."""
    return text[: find_stop(text + "\n", context)]


def drop_trailing_blanks(text: str, context: TrimContext) -> str:
    """Drop blanks and undecoded bytes at the end, but not the line break that parts the text from what follows it on the cursor's line."""
    bare = text.rstrip().rstrip("\ufffd").rstrip()
    blanks, around = text[len(bare) :], context.around
    followed = around.head.partition("\n")[0].strip() and (not around.line or not context.single_line)
    if not bare or "\n" not in blanks or not followed:
        return bare
    line_break = blanks.index("\n") + 1
    indentation = blanks[line_break:][: len(blanks[line_break:]) - len(blanks[line_break:].lstrip(" \t"))]
    while indent_of(indentation) > indent_of(around.line):
        indentation = indentation[:-1]
    return bare + blanks[:line_break] + indentation


def drop_overlap(text: str, context: TrimContext) -> str:
    """Drop from the end what the suffix begins with, unless that would take apart a string or a pair of brackets of the completion."""
    while overlap := _overlap(text, context):
        text = text[: len(text) - overlap].rstrip()
    return text


def _overlap(text: str, context: TrimContext) -> int:
    around = context.around
    head = around.head[:_LONGEST_OVERLAP]
    for length in range(min(len(head), len(text)), 0, -1):
        cut = len(text) - length
        if (
            text.endswith(head[:length])
            and _REPEATED.search(head[:length])
            and not joined(text[:cut][-1:], text[cut])
            and not severs(text, cut, around.syntax, around.inside)
        ):
            return length
    return 0


def drop_if_short(text: str, _context: TrimContext) -> str:
    """Show nothing rather than a suggestion that saves no key."""
    return text if len("".join(text.split())) >= _SHORTEST else ""


STEPS = (stop_at_end, drop_overlap, drop_trailing_blanks, drop_if_short)
"""Applied in this order until none of them changes the text."""
