"""Strings, comments and brackets of a piece of code, found in one pass that always gets to the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from keyahead.service.trim.syntax import BRACKETS, Syntax

_TAB_COLUMNS = 4
_WORD = re.compile(r"\w")
_BLANK = re.compile(r"\s*")

# How each string or comment goes on to its end, by what begins it. Group 1 is the end, empty when the text is over first; a simple string
# also ends, unclosed, with its line.
_LINE_COMMENT = re.compile(r"[^\n]*+(?=(\n?))")
_ENDS = {
    "#": _LINE_COMMENT,
    "//": _LINE_COMMENT,
    "--": _LINE_COMMENT,
    "/*": re.compile(r"(?:[^*]|\*(?!/))*+((?:\*/)?)"),
    '"""': re.compile(r'(?:\\.?|[^"\\]|"(?!""))*+((?:""")?)', re.DOTALL),
    "'''": re.compile(r"(?:\\.?|[^'\\]|'(?!''))*+((?:''')?)", re.DOTALL),
    '"': re.compile(r'(?:\\.?|[^"\\\n])*+("?)', re.DOTALL),
    "'": re.compile(r"(?:\\.?|[^'\\\n])*+('?)", re.DOTALL),
    "`": re.compile(r"(?:\\.?|[^`\\])*+(`?)", re.DOTALL),
}
_COMMENTS = frozenset({"#", "//", "--", "/*"})
QUOTES = frozenset(_ENDS) - _COMMENTS
HALF_CHARACTER = "half a character"
"""The mark of a character literal that the text is over in."""
MULTILINE = frozenset({"/*", '"""', "'''", "`"})


class Token(NamedTuple):
    """A bracket, or a whole string or comment named by what begins it."""

    mark: str
    start: int
    end: int
    closed: bool = True

    def reaches(self, end: int) -> bool:
        """Whether the text is over, at `end`, before this string or comment is."""
        return not self.closed and self.end == end


def tokens(text: str, syntax: Syntax, inside: str = "") -> Iterator[Token]:
    """The tokens of a text that begins inside the string or comment `inside`, or in plain code."""
    position = 0
    if inside:
        yield (token := _until_end(text, inside, 0, 0))
        position = token.end
    while found := syntax.mark.search(text, position):
        mark = found[0]
        if found.lastgroup == "half":
            token = Token(HALF_CHARACTER, found.start(), found.end())
        elif mark in _ENDS:
            token = _until_end(text, mark, found.start(), found.end())
        else:
            token = Token(mark, found.start(), found.end())
        yield token
        position = token.end


def _until_end(text: str, mark: str, start: int, body: int) -> Token:
    end = _ENDS[mark].match(text, body)
    assert end is not None  # noqa: S101 - each pattern above also matches nothing at all
    return Token(mark, start, end.end(), closed=bool(end[1]))


def code_of(line: str, syntax: Syntax) -> str:
    """The line without its comment and without blanks on the right."""
    for token in tokens(line, syntax):
        if token.mark in _COMMENTS and token.end == len(line):
            return line[: token.start].rstrip()
    return line.rstrip()


def unclosed(text: str, syntax: Syntax, inside: str = "") -> list[int]:
    """Where the brackets stand that the text opens and does not close, outermost first."""
    stack: list[int] = []
    for token in tokens(text, syntax, inside):
        if token.mark in BRACKETS:
            stack.append(token.start)
        elif token.mark in BRACKETS.values() and stack:
            stack.pop()
    return stack


def severs(text: str, cut: int, syntax: Syntax, inside: str = "") -> bool:
    """Whether a cut would part a string's quotes or a bracket from the one that closes it, or take away the quote of a string left open."""
    stack: list[int] = []
    for token in tokens(text, syntax, inside):
        inherited = inside and token.start == 0
        if token.mark in QUOTES and not inherited and (token.start < cut < token.end or token.reaches(len(text))):
            return True
        if token.mark in BRACKETS:
            stack.append(token.start)
        elif token.mark in BRACKETS.values() and stack and stack.pop() < cut <= token.start:
            return True
    return False


def indent_of(line: str) -> int:
    """Columns of white space that a line begins with, a tab being four; only comparisons matter."""
    blank = _BLANK.match(line)
    return len(blank[0].expandtabs(_TAB_COLUMNS)) if blank else 0


def joined(one: str, next_one: str) -> bool:
    """Whether two characters belong to one word or to one run of blanks; the first may be missing."""
    return bool(one) and ((one in " \t" and next_one in " \t") or bool(_WORD.match(one) and _WORD.match(next_one)))
