"""What trimming knows besides the completion: the text around the cursor, read once and only as far as it matters."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from keyahead.service.trim.lexical import QUOTES, Token, indent_of, tokens
from keyahead.service.trim.opening import NEAR, line_opens, opens_block
from keyahead.service.trim.syntax import BRACKETS, Syntax, syntax_of

_LINES_ABOVE = 5
_INDENTED = re.compile(r"^(\t|  )[ \t]*\S", re.MULTILINE)
_AT_ONCE = re.compile(r"[)\]}\"'`;, \t]*")
_ON_CURSOR_LINE = 1 << 30


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The text around a cursor as the rules of trimming see it. Lines are without their newline."""

    syntax: Syntax
    tail: str
    """The end of the prefix."""
    head: str
    """The beginning of the suffix."""
    line: str
    """The cursor's line, before the cursor."""
    rest: str
    """The cursor's line, after the cursor; "" when the cursor is at the very beginning of a line, which then counts as the next line."""
    above: tuple[str, ...]
    """The last lines with text above the cursor's, nearest last."""
    below: str
    """The next line with text below the cursor's; "" at the end of the file."""
    inside: str
    """What begins the string or comment in which the cursor stands; "" in plain code."""
    in_block: bool
    """Whether a block has just been opened here."""
    line_opens: bool
    """Whether it is the cursor's own line that opens one."""
    indentation: str
    """The character that indents lines around here; "" when unknown or mixed."""
    closable: int | None
    """How many of the brackets that are open at the cursor a completion may close, since the suffix does not; None when all."""

    @classmethod
    def of(cls, prefix: str, suffix: str, language: str) -> Surroundings:
        """Read the surroundings of a cursor. A prefix longer than NEAR is taken to begin in plain code."""
        syntax, tail, head = syntax_of(language), prefix[-NEAR:], suffix[:NEAR]
        before, _, line = tail.rpartition("\n")
        rest, _, after = head.partition("\n") if line else ("", "", head)
        found = list(tokens(tail, syntax))
        inside = found[-1].mark if found and found[-1].reaches(len(tail)) else ""
        kinds = set(_INDENTED.findall(tail)) or set(_INDENTED.findall(after))
        return cls(
            syntax=syntax,
            tail=tail,
            head=head,
            line=line,
            rest=rest,
            above=tuple([text for text in before.split("\n") if text.strip()][-_LINES_ABOVE:]),
            below=next((text for text in after.split("\n") if text.strip()), ""),
            inside=inside,
            in_block=opens_block(prefix, suffix, language),
            line_opens=line_opens(line, syntax),
            indentation=kinds.pop()[0] if len(kinds) == 1 else "",
            closable=_closable(_open_brackets(tail, found), _closers(head, syntax, inside)),
        )


@dataclass(frozen=True, slots=True)
class TrimContext:
    """Everything trimming knows besides the completion itself."""

    prefix: str
    suffix: str
    language: str
    """A normal identifier (`language_of`)."""
    multiline: bool
    """Whether more than the rest of the line is wanted."""
    complete: bool
    """False when decoding was cut by the deadline or the length, so that the last word may be half a word."""
    _around: list[Surroundings] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def around(self) -> Surroundings:
        """The surroundings, read once and only when a question about a completion is asked: a request that the cache answers asks none."""
        if not self._around:
            self._around.append(Surroundings.of(self.prefix, self.suffix, self.language))
        return self._around[0]

    @property
    def single_line(self) -> bool:
        """Whether the answer must stay on the cursor's line: asked for, or because the cursor stands in a string of one line."""
        return not self.multiline or self.around.inside in {'"', "'"}


def _open_brackets(tail: str, found: list[Token]) -> list[tuple[str, int, bool]]:
    """Brackets open at the cursor, innermost first: what closes each, its line's indentation, whether that is the cursor's line."""
    stack: list[tuple[str, int, bool]] = []
    cursor_line = tail.rfind("\n") + 1
    for token in found:
        if token.mark in BRACKETS:
            line = tail[tail.rfind("\n", 0, token.start) + 1 : token.start + 1]
            stack.append((BRACKETS[token.mark], indent_of(line), token.start >= cursor_line))
        elif token.mark in BRACKETS.values() and stack:
            stack.pop()
    return stack[::-1]


def _closers(head: str, syntax: Syntax, inside: str) -> list[tuple[str, int]]:
    """Brackets that the suffix closes without having opened them: each, with its line's indentation.

    On the cursor's line only those that follow at once: behind other code, a bracket may belong to one that is still to be opened.
    """
    depth, closers = 0, list[tuple[str, int]]()
    at_once = _AT_ONCE.match(head)
    for token in tokens(head, syntax, inside):
        newline = head.rfind("\n", 0, token.start)
        if token.mark in BRACKETS:
            depth += 1
        elif token.mark in BRACKETS.values() and depth:
            depth -= 1
        elif token.mark in BRACKETS.values() and newline >= 0:
            closers.append((token.mark, indent_of(head[newline + 1 : token.end])))
        elif token.mark in BRACKETS.values() and at_once and token.end <= at_once.end():
            closers.append((token.mark, _ON_CURSOR_LINE))
    return closers


def _closable(opened: list[tuple[str, int, bool]], closers: list[tuple[str, int]]) -> int | None:
    """The least number of brackets to close so that the suffix's first closers fit the brackets still open.

    A closer fits a bracket of its kind unless its line is indented less than the bracket's line: so an unfinished call inside a block is
    not taken to be closed by what closes the block.
    """
    for closed in range(len(opened)):
        left = opened[closed:]
        needed = max(1, sum(on_cursor_line for _, _, on_cursor_line in left))
        pairs = list(zip(left[:needed], closers, strict=False))
        if len(pairs) == needed and all(bracket == closer and at >= indent for (bracket, indent, _), (closer, at) in pairs):
            return closed
    return None


def closes_string(around: Surroundings) -> bool:
    """Whether the cursor stands in a string whose closing quote is right behind it."""
    return around.inside in QUOTES and around.head.startswith(around.inside)
