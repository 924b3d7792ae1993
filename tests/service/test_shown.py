"""A suggestion lives as long as what is typed agrees with it, and ends with one outcome."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.documents import Splice
from keyahead.service.model import Answer, FinishReason, OutcomeKind, Source
from keyahead.service.shown import Shown

TEXT = "return a + b"


def shown(text: str = TEXT, reason: FinishReason = FinishReason.STOP) -> Shown:
    """A suggestion at offset 10, shown after 50 ms."""
    return Shown.of(Answer(text, reason, Source.ENGINE, 3, 4), "r1", 10, 0.05)


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=5))
def test_typing_what_it_begins_with_shortens_it(cuts: list[int]) -> None:
    """In any pieces, of one edit or of many."""
    ends = sorted(cuts)
    pieces = [TEXT[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    splices, at, one_by_one = [], 10, shown()
    for piece in pieces:
        splices.append(Splice(at, "", piece))
        at += len(piece)
        typed = one_by_one.typed_on(splices[-1:], at)
        assert typed is not None
        one_by_one = typed
    assert one_by_one == shown().typed_on(splices, at)
    assert one_by_one.rest == TEXT[sum(map(len, pieces)) :]


@pytest.mark.parametrize(
    ("splice", "cursor"),
    [
        (Splice(10, "", "x"), 11),
        (Splice(9, "", "r"), 10),
        (Splice(10, "y", "r"), 11),
        (Splice(9, "y", ""), 9),
        (Splice(10, "", "re"), 11),
        (Splice(10, "", TEXT + "!"), 11 + len(TEXT)),
    ],
    ids=["another character", "before it", "instead of what follows", "a deletion", "the cursor elsewhere", "more than it has"],
)
def test_anything_else_ends_it(splice: Splice, cursor: int) -> None:
    """It no longer says what comes next."""
    assert shown().typed_on([splice], cursor) is None


def test_it_is_extended_by_more_of_the_same_only() -> None:
    """What has been typed of it stays part of it."""
    typed = shown("ret", FinishReason.PARTIAL).typed_on([Splice(10, "", "re")], 12)
    assert typed is not None
    assert not typed.finished
    more = typed.extended(Answer("turn a", FinishReason.STOP, Source.MEMORY, 0, 3))
    assert more is not None
    assert (more.text, more.rest, more.finished) == ("return a", "turn a", True)
    assert typed.extended(Answer("raise", FinishReason.STOP, Source.MEMORY, 0, 3)) is None


@pytest.mark.parametrize(
    ("taken", "kind", "expected", "chars"),
    [
        (0, OutcomeKind.ACCEPTED, OutcomeKind.ACCEPTED, 12),
        (6, OutcomeKind.ACCEPTED, OutcomeKind.ACCEPTED, 12),
        (0, OutcomeKind.REJECTED, OutcomeKind.REJECTED, 0),
        (0, OutcomeKind.WITHDRAWN, OutcomeKind.WITHDRAWN, 0),
        (6, OutcomeKind.REJECTED, OutcomeKind.PARTIAL, 6),
        (99, OutcomeKind.WITHDRAWN, OutcomeKind.PARTIAL, 12),
    ],
)
def test_the_outcome_is_the_best_of_what_happened(taken: int, kind: OutcomeKind, expected: OutcomeKind, chars: int) -> None:
    """A suggestion taken in part is no rejected one, whatever became of its rest."""
    outcome = shown().accepted(taken).outcome(kind, "s1")
    assert (outcome.kind, outcome.accepted_chars, outcome.shown_chars) == (expected, chars, 12)
    assert (outcome.request_id, outcome.session_id, outcome.source, outcome.latency_ms) == ("r1", "s1", Source.ENGINE, 50)
