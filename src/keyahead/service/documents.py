"""The text of a document that a client edits from afar: versions, changes by position, and what was deleted lately.

An edit splices the text and an index of its lines. Both are copied in memory (0.1 ms for 1 MiB), but only what changed is looked at.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from keyahead.engine.contract import Array
from keyahead.service.positions import BadPosition, Encoding, characters, line_ends, line_text_end, no_such_line, utf8_bytes

DELETED_CHARS: Final = 2048
"""Of deleted text kept: what a user cuts to paste it elsewhere, or deletes to type it again in another way."""
_WORK: Final = 4
"""What one edit may cost, in lengths of the longest document (see `_work`): one change always fits, wherever it is. Without a bound, 256
changes at the end of a line of 1 MiB kept the event loop, and so everybody, for 0.6 s."""
_COPYING: Final = 16
"""To count a position's characters costs so many times what copying them costs (measured: 4 to 14 times)."""


class Lost(enum.Enum):
    """Why the text is no longer the client's."""

    NOT_OPEN = "not_open"
    VERSION = "version"
    POSITION = "position"
    SIZE = "size"


class OutOfSync(Exception):
    """The document cannot be used any more, and may be half edited: the client must send the whole text."""

    def __init__(self, reason: Lost) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Position:
    """As an editor counts: zero-based line, and offset in it in units of the document's encoding."""

    line: int
    character: int


@dataclass(frozen=True, slots=True)
class Change:
    """The text from `start` to `end` becomes `text`."""

    start: Position
    end: Position
    text: str


@dataclass(frozen=True, slots=True)
class Splice:
    """A change by characters: at an offset, one text took another's place. What both began with is not part of it."""

    at: int
    removed: str
    text: str


class Document:
    """One version of a text and the cursor in it."""

    def __init__(self, text: str, cursor: int, version: int, encoding: Encoding, max_bytes: int) -> None:
        self.text = text
        self.cursor = cursor
        """In characters from the start."""
        self.version = version
        self.num_bytes = utf8_bytes(text)
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._starts: Array = np.concatenate(([0], _starts_in(text, 0)))
        """Offsets at which lines start."""
        self._deletions: list[str] = []
        self._deleting_at: int | None = None
        """Offset of the last deletion, if nothing was typed since."""

    @property
    def deleted(self) -> tuple[str, ...]:
        """What was deleted lately, the oldest first; `DELETED_CHARS` in all. Deletions side by side are one."""
        return tuple(self._deletions)

    def edit(self, base_version: int, version: int, changes: Sequence[Change], cursor: Position | None) -> tuple[Splice, ...]:
        """Apply changes in order and set the cursor, by default behind the last change; what they came to. Raises OutOfSync."""
        self.expect(base_version)
        if self._work(changes) > _WORK * self._max_bytes:
            raise OutOfSync(Lost.SIZE)
        try:
            splices = tuple(splice for each in changes if (splice := self._change(each)) is not None)
            if cursor is not None:
                self.cursor = self._offset(cursor)
        except BadPosition:
            raise OutOfSync(Lost.POSITION) from None
        self.version = version
        return splices

    def move(self, cursor: Position) -> None:
        """Set the cursor. Raises OutOfSync."""
        try:
            self.cursor = self._offset(cursor)
        except BadPosition:
            raise OutOfSync(Lost.POSITION) from None

    def expect(self, version: int) -> None:
        """Raise OutOfSync unless this is the version."""
        if version != self.version:
            raise OutOfSync(Lost.VERSION)

    def line_of(self, offset: int) -> int:
        """The zero-based line that an offset is in."""
        return int(np.searchsorted(self._starts, offset, side="right")) - 1

    def _work(self, changes: Sequence[Change]) -> int:
        """About what changes cost: to each, the text is copied, and its positions are counted from their lines' starts."""
        return sum(each.start.character + each.end.character + len(self.text) // _COPYING for each in changes)

    def _change(self, change: Change) -> Splice | None:
        """Make a change; None when it changes nothing."""
        start, end = self._offset(change.start), self._offset(change.end)
        if end < start:
            raise OutOfSync(Lost.POSITION)
        removed, text = self.text[start:end], change.text
        self.num_bytes += utf8_bytes(text) - utf8_bytes(removed)
        if self.num_bytes > self._max_bytes:
            raise OutOfSync(Lost.SIZE)
        self.text = self.text[:start] + text + self.text[end:]
        self._move_lines(start, end, len(text))
        self.cursor = start + len(text)
        same = common_beginning(removed, text)
        splice = Splice(start + same, removed[same:], text[same:])
        if not splice.removed and not splice.text:
            return None
        self._remember(splice)
        return splice

    def _move_lines(self, start: int, end: int, inserted: int) -> None:
        """Renew the starts of lines after what lay from `start` to `end` has been replaced by so many characters.

        Whether a line starts somewhere depends on the characters before and behind that place (CR, or CRLF).
        """
        low = max(1, int(np.searchsorted(self._starts, start)))
        high = int(np.searchsorted(self._starts, end, side="right"))
        begin = max(0, start - 1)
        fresh = _starts_in(self.text[begin : start + inserted + 1], begin)
        fresh = fresh[fresh <= start + inserted]
        self._starts = np.concatenate((self._starts[:low], fresh, self._starts[high:] + (start + inserted - end)))

    def _offset(self, position: Position) -> int:
        last = len(self._starts) - 1
        if position.line > last:
            raise no_such_line(last)
        start = int(self._starts[position.line])
        end = len(self.text) if position.line == last else int(self._starts[position.line + 1]) - 1
        end = min(line_text_end(self.text, start, end), start + position.character)  # A character is at least one unit long.
        return start + characters(self.text[start:end], position.character, self._encoding)

    def _remember(self, splice: Splice) -> None:
        """Keep what was deleted; going on backwards (backspace) or forwards (delete) from the last deletion extends it."""
        at, self._deleting_at = self._deleting_at, None if splice.text else splice.at
        if not splice.removed:
            return
        if at == splice.at + len(splice.removed):
            self._deletions[-1] = splice.removed + self._deletions[-1]
        elif at == splice.at:
            self._deletions[-1] += splice.removed
        else:
            self._deletions.append(splice.removed)
        over = sum(map(len, self._deletions)) - DELETED_CHARS
        while over > 0:
            oldest = self._deletions.pop(0)
            if len(oldest) > over:
                self._deletions.insert(0, oldest[over:])
            over -= len(oldest)


def _starts_in(text: str, offset: int) -> Array:
    """Where lines start behind the line ends in a text that lies at an offset."""
    return np.flatnonzero(line_ends(text)) + (offset + 1)


def common_beginning(one: str, other: str) -> int:
    """How many characters both begin with, by bisection: comparing slices is far quicker than comparing characters."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
