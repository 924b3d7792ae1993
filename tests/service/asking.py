"""A text, requests for places in it, and their answers: what the tests of the pipeline and of its parts share."""

from __future__ import annotations

from typing import Any

from keyahead.service.model import (
    Answer,
    Deadline,
    FinishReason,
    Mode,
    Query,
    Show,
)
from keyahead.service.pipeline import Pipeline

TEXT = """import math


def area(radius):
    return math.pi * radius * radius + math.sqrt(radius) - math.floor(radius) + 1


print(area(2))
"""
CURSOR = TEXT.index("return") + 3
LINE_END = TEXT.index(" + 1") + 4


def query(at: int = CURSOR, **changes: Any) -> Query:
    """A request at some place of the text, in single-line mode."""
    return Query(TEXT[:at], "\n", path="a.py", **{"mode": Mode.SINGLE_LINE, **changes})


async def ask(pipeline: Pipeline, asked: Query, seconds: float = 5) -> Answer:
    """The answer, with deltas checked to be what it begins with."""
    shown: list[str] = []
    answer = pipeline.at_hand(asked) or await pipeline.complete(asked, Deadline.after(seconds), noting(shown))
    assert answer.text.startswith("".join(shown)) or answer.finish_reason is not FinishReason.STOP
    return answer


def noting(shown: list[str]) -> Show:
    """Takes what is shown into a list."""

    async def show(text: str) -> None:
        shown.append(text)

    return show
