"""Small texts to type."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from keyahead.loadtest.plan import Key, Plan
from keyahead.loadtest.texts import Passage, Source


def passage(typed: str, before: str = "", after: str = "\n") -> Passage:
    """A passage of a Python file."""
    return Passage("a.py", "python", before, typed, after)


def plan(typed: str, every_s: float = 0.1) -> Plan:
    """A person who types this without a mistake, a character at a time, from second 1 on."""
    keys = [Key(1 + every_s * count, 0, count, asks=count > 0) for count in range(len(typed) + 1)]
    return Plan(0, (passage(typed),), tuple(keys))


def source(path: str = "a.py", lines: int = 60) -> Source:
    """A file of so many lines, each different."""
    text = "".join(f"{'    ' * (number % 3)}value_{number} = compute(number_{number}, {number})\n" for number in range(lines))
    return Source(path, text)


@pytest.fixture
def sources() -> Sequence[Source]:
    """Enough files for some minutes."""
    return [source(f"{number}.py") for number in range(40)]
