"""Where a completion should end, judged line by line: the end of its scope, blank lines, repetitions.

Every rule looks only at text that later text cannot change, finished lines for the most part, and the first line at which a rule speaks
decides. So a stop that has been found stays where it is however the completion goes on, and decoding can end there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from keyahead.service.trim.context import Surroundings, TrimContext
from keyahead.service.trim.lexical import MULTILINE, Token, indent_of, joined, tokens, unclosed
from keyahead.service.trim.opening import line_opens
from keyahead.service.trim.repetition import first_period, repeated_group, same_line

_WORD = re.compile(r"[^\W_]")
_PREPROCESSOR = re.compile(r"\s*#(?:define|elif|else|endif|error|if|ifdef|ifndef|include|pragma|undef)\b")
# What begins a definition at the top of a file, in the languages that have such words; as Tabby's stop words do per language.
_DEFINITION = re.compile(
    r"(?:(?:abstract|async|default|export|final|internal|private|protected|pub|public|sealed|static)\s+)*"
    r"(?:class|def|enum|fn|func|function|impl|interface|module|namespace|struct|template|trait|type)\b|@\w|#\["
)
_ATTRIBUTE = re.compile(r"@\w|#\[|template\b")
# What shows, before a line is finished, that it neither closes a scope nor is the preprocessor's: its first word, or another character.
_FIRST = re.compile(r"\w+(?=\W)|[^\w\s)\]}<#]")
_MISPLACED_SPACES = re.compile(r" {2,}")
_SURE_TO_BE_THE_SAME = 20
_SURE_TO_REPEAT = 8


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the completion; its text includes what stands before the cursor, if it is the cursor's line."""

    text: str
    start: int
    """Where its own part of the completion begins, and where it ends."""
    end: int
    joined: bool
    """Whether it continues code that stands before the cursor."""
    quoted: bool
    """Whether it begins inside a string or comment of several lines."""

    @property
    def own(self) -> str:
        """The completion's own part of it, without blanks on the right."""
        return self.text[len(self.text) - (self.end - self.start) :].rstrip()


@dataclass(slots=True)
class Walk:
    """What is known after some lines of a completion."""

    around: Surroundings
    in_block: bool
    floor: int | None = None
    """The least indentation that still belongs to the scope; None until the first line with text."""
    shown: list[Line] = field(default_factory=list)
    """The lines with text so far."""
    begun: bool = False
    """Whether the completion has added text to any."""
    blank: int | None = None
    """Where the blank lines just before began."""

    def leaves(self, line: Line) -> bool:
        """Whether a line, even if it is not finished, stands outside the scope for sure: most blocks end here, a line's time earlier."""
        text = line.text.lstrip()
        outside = self.floor is not None and not line.quoted and indent_of(line.text) < self.floor
        return outside and bool(_FIRST.match(text)) and not self.around.syntax.closer.match(text)

    def step(self, line: Line) -> int | None:
        """Take one more line; where the completion should end, if this line says so."""
        if not line.text.strip():
            return self._step_blank(line)
        self.blank = None
        if line.quoted:
            return None
        self.shown.append(line)
        self.begun |= bool(line.own)
        if self.floor is None:
            self._enter(line)
        for rule in RULES if self.begun else ():
            if (cut := rule(self, line)) is not None:
                return cut
        return None

    def _step_blank(self, line: Line) -> int | None:
        """One blank line ends what stands at the top of a file, outside a block just opened; two end everything."""
        if line.quoted:
            return None
        if self.blank is not None or (self.begun and not self.floor and not self.in_block):
            return line.start if self.blank is None else self.blank
        self.blank = line.start
        return None

    def _enter(self, line: Line) -> None:
        """Find the scope from the first line with text: a block that it opens, or else the block that it stands in."""
        opens = line.joined and (line_opens(line.text, self.around.syntax) or bool(unclosed(line.text, self.around.syntax)))
        self.in_block |= opens
        self.floor = indent_of(line.text) + opens


def _mixes_tabs_and_spaces(walk: Walk, line: Line) -> int | None:
    """Ends before a line that is indented by the other character than the lines around the cursor."""
    indentation = line.text[: len(line.text) - len(line.text.lstrip())]
    wrong = (walk.around.indentation == " " and "\t" in indentation) or (
        walk.around.indentation == "\t" and _MISPLACED_SPACES.match(indentation)
    )
    return line.start if wrong and not line.joined else None


def _reaches_rest(walk: Walk, line: Line) -> int | None:
    """Ends before what follows the cursor on its line, once a line of the completion has come to it."""
    rest = walk.around.rest.strip()
    reached = len(rest) >= _SURE_TO_REPEAT and line.own.endswith(rest) and not joined(line.own[: -len(rest)][-1:], rest[0])
    return line.start + len(line.own) - len(rest) if reached else None


def _repeats_below(walk: Walk, line: Line) -> int | None:
    """Ends before a line that the file already has right below the cursor."""
    below = walk.around.below
    if not _WORD.search(below) or (line.joined and walk.around.rest.strip()) or not same_line(line.text, below):
        return None
    return line.start if indent_of(line.text) == indent_of(below) or len(line.text.strip()) >= _SURE_TO_BE_THE_SAME else None


def _repeats_above(walk: Walk, _line: Line) -> int | None:
    """Shows nothing of a completion that begins with the lines just above the cursor."""
    lines = [line.text.rstrip() for line in walk.shown]
    above = [text.rstrip() for text in walk.around.above[-len(lines) :]]
    return 0 if lines == above and _WORD.search(lines[0]) and len(lines[0].strip()) >= _SURE_TO_REPEAT else None


def _repeats_itself(walk: Walk, _line: Line) -> int | None:
    """Ends a loop of lines behind its first round."""
    repeated = repeated_group([line.text.rstrip() for line in walk.shown])
    return walk.shown[-repeated].start if repeated else None


def _begins_next_definition(walk: Walk, line: Line) -> int | None:
    """Ends, at the top of a file, before the definition that follows what was begun."""
    if walk.floor or walk.in_block or line is walk.shown[0] or not _DEFINITION.match(line.text):
        return None
    return None if _ATTRIBUTE.match(walk.shown[-2].text) else line.start


def _closes_on_the_cursor_line(walk: Walk, line: Line) -> int | None:
    """Ends with the cursor's line when that line has closed again what it had opened before the cursor."""
    return line.end if line.joined and walk.around.line_opens and walk.floor == indent_of(line.text) else None


def _leaves_scope(walk: Walk, line: Line) -> int | None:
    """Ends before a line outside the scope; keeps one that closes the scope, or only its closing brackets if it opens another block."""
    if line.joined or walk.floor is None or indent_of(line.text) >= walk.floor or _PREPROCESSOR.match(line.text):
        return None
    text = line.text.lstrip()
    closer = walk.around.syntax.closer.match(text)
    if not closer:
        return line.start
    return line.end - len(text) + closer.end() if line_opens(line.text, walk.around.syntax) else line.end


RULES = (
    _reaches_rest,
    _mixes_tabs_and_spaces,
    _repeats_below,
    _repeats_above,
    _repeats_itself,
    _closes_on_the_cursor_line,
    _begins_next_definition,
    _leaves_scope,
)
"""In this order; the first that speaks decides."""


def line_stop(text: str, context: TrimContext) -> int | None:
    """Where the completion should end by the lines it has finished so far; None when it may go on."""
    around = context.around
    walk = Walk(around, around.in_block)
    quotes = [token for token in tokens(text, around.syntax, around.inside) if "\n" in text[token.start : token.end]]
    start = 0
    while True:
        end = text.find("\n", start)
        line = _line(around, text[start:] if end < 0 else text[start:end], start, quotes)
        if walk.leaves(line):
            return start
        if (cut := first_period(text[start : line.end])) is not None:
            return start + cut
        if end < 0:
            return None
        if (cut := walk.step(line)) is not None:
            return cut
        if context.single_line:
            return end + 1
        start = end + 1


def _line(around: Surroundings, text: str, start: int, quotes: list[Token]) -> Line:
    quoted = any(token.start < start < token.end for token in quotes)
    if start:
        return Line(text, start, start + len(text), joined=False, quoted=quoted)
    return Line(around.line + text, 0, len(text), joined=bool(around.line.strip()), quoted=around.inside in MULTILINE)
