"""Places and sizes in a text, in the units that editors count in. Nothing here looks at more of the text than it must."""

from __future__ import annotations

import enum

import numpy as np

from keyahead.engine.contract import Array


class Encoding(enum.Enum):
    """What a position's characters are counted in: codec, bytes of a unit, and the units' name."""

    UTF16 = ("utf-16-le", 2, "UTF-16 code units")
    UTF8 = ("utf-8", 1, "UTF-8 bytes")
    UTF32 = ("utf-32-le", 4, "code points")


class BadPosition(Exception):
    """The text has no such position: the part of it that is wrong (`line` or `character`), and why."""

    def __init__(self, part: str, description: str) -> None:
        super().__init__(description)
        self.part = part
        self.description = description


def line_ends(text: str) -> Array:
    """Marks the last character of every line end, by bool; lines end as in LSP: LF, CRLF or CR.

    NumPy finds those of 1 MiB in a tenth of a millisecond; splitting the text would take ten on the event loop.
    """
    codes = np.frombuffer(text.encode(), np.uint8) if text.isascii() else np.frombuffer(text.encode("utf-32-le"), "<u4")
    ends: Array = codes == ord("\n")
    if "\r" in text:
        returns = codes == ord("\r")
        returns[:-1] &= ~ends[1:]
        ends |= returns
    return ends


def line_text_end(text: str, start: int, end: int) -> int:
    """Where a line's own characters end, given that it starts at `start` and that its line end's last character is at `end`."""
    return end - 1 if end > start and text[end - 1 : end + 1] == "\r\n" else end


def characters(line: str, offset: int, encoding: Encoding) -> int:
    """How many characters of the line lie before an offset in units of the encoding. Raises BadPosition."""
    codec, width, unit = encoding.value
    # A character is at least one unit long, so these are enough.
    units = line[:offset].encode(codec)
    if len(units) < offset * width:
        raise BadPosition("character", f"must be 0 to {len(line.encode(codec)) // width} in that line, in {unit}")
    try:
        return len(units[: offset * width].decode(codec))
    except UnicodeDecodeError:
        raise BadPosition("character", f"is inside a character (counted in {unit}); move it to the character's start or end") from None


def no_such_line(last: int) -> BadPosition:
    """The error for a line behind the last one, which is zero-based like all."""
    return BadPosition("line", f"must be 0 to {last}: the text has {last + 1} lines")


def utf8_bytes(text: str) -> int:
    """How long the text is in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
