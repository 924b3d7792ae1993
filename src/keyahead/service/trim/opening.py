"""Has a block just been opened at the cursor? Where it has, a block is worth showing; everywhere else, the rest of the line."""

from __future__ import annotations

import re

from keyahead.service.trim.lexical import code_of, indent_of
from keyahead.service.trim.syntax import Syntax, syntax_of

NEAR = 2048
"""Characters of the prefix's end and of the suffix's beginning that trimming ever looks at."""

# What an editor puts behind the cursor by itself when a brace is typed.
_AUTO_CLOSED = re.compile(r"\}[)\];,]*")
_DOCSTRING_QUOTES = ('"""', "'''")


def opens_block(prefix: str, suffix: str, language: str) -> bool:
    """Whether the cursor stands where a block has just been opened and has no body yet.

    Either the cursor's line ends, before the cursor, in what opens a block in this language, or it is blank and the last line with code
    above it does (comments, and in Python a docstring, may stand between). Nothing but an automatically closed brace may follow on the
    line, and the next line with text must not be indented like a body. `language` is a normal identifier (`language_of`).
    """
    syntax = syntax_of(language)
    tail, (rest, _, following) = prefix[-NEAR:], suffix[:NEAR].partition("\n")
    line = tail.rpartition("\n")[2]
    above = line if line.strip() else _line_above(tail, syntax)
    if not line_opens(above, syntax) or (rest.strip() and not _AUTO_CLOSED.fullmatch(rest.strip())):
        return False
    below = next((text for text in following.split("\n") if text.strip()), "")
    return indent_of(below) <= indent_of(above) and (bool(line.strip()) or not 0 < indent_of(line) <= indent_of(below))


def line_opens(line: str, syntax: Syntax) -> bool:
    """Whether a line opens a block: its code ends in what does so in its language."""
    return bool(syntax.opener.search(code_of(line, syntax)))


def _line_above(tail: str, syntax: Syntax) -> str:
    """The last line with code in it, docstrings left out; "" when there is none."""
    text = _without_docstring(tail.rstrip(), syntax)
    while text:
        text, _, line = text.rpartition("\n")
        if code_of(line, syntax).strip():
            return line
    return ""


def _without_docstring(text: str, syntax: Syntax) -> str:
    quotes = text[-3:]
    if quotes not in _DOCSTRING_QUOTES or not syntax.mark.fullmatch(quotes):
        return text
    before = text[: max(text.rfind(quotes, 0, -3), 0)]
    return text if before.rpartition("\n")[2].strip() else before.rstrip()
