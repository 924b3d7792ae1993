"""Drafts from earlier suggestions and from the document."""

from __future__ import annotations

import pytest

from keyahead.service.drafting.sources import GUESS_CHARS, Document, Suggested, Suggestions

LOOP = Suggested("total = 0\nfor item in items:\n    ", "total += item.price * item.count\nprint(total)")


@pytest.mark.parametrize(
    ("written", "continuation"),
    [
        ("for item in items:\n    total += it", "em.price * item.count\nprint(total)"),  # typed through
        ("for item in items:\n    sum_ += item.pr", "ice * item.count\nprint(total)"),  # a rename before
        ("for item in items:\n    total += (item.price", " * item.count\nprint(total)"),  # an edit in between
        ("for item in items:\n    total += item.price * item.count\npr", "int(total)"),  # the next line
    ],
)
def test_a_suggestion_is_realigned_to_the_cursor(written: str, continuation: str) -> None:
    """Whatever was changed before, what follows the longest agreement is the guess."""
    guess = Suggestions("session", [LOOP]).guess(written)
    assert guess is not None
    assert (guess.text, guess.whole) == (continuation, True)


def test_a_guess_tells_what_became_of_its_suggestion() -> None:
    """Nothing is known of one that was never spoken of."""
    for taken in (True, False, None):
        guess = Suggestions("session", [Suggested("x = ", "alpha.beta(1)", taken)]).guess("y = alpha.be")
        assert guess is not None
        assert guess.taken is taken


def test_what_stood_before_a_suggestion_is_none_of_it() -> None:
    """A match in the text that was there already proposes nothing."""
    assert Suggestions("session", [LOOP]).guess("x\ntotal = 0\nfor it") is None


def test_the_longest_agreement_wins_and_then_the_newest() -> None:
    """Suggestions come newest first."""
    old, new = Suggested("", "alpha.beta(1)"), Suggested("", "beta(2)")
    assert Suggestions("session", [new, old]).guess("x = alpha.beta(").text == "1)"  # type: ignore[union-attr]
    assert Suggestions("session", [new, old]).guess("x = beta(").text == "2)"  # type: ignore[union-attr]


def test_the_document_is_searched_on_both_sides_and_its_context_too() -> None:
    """Nearest before the cursor, unless a longer match stands elsewhere."""
    document = Document.of("def area_of(square):\n    return square.side ** 2\n", ["import numpy as np\n"], "deleted_name(1)")
    before = "x = square.width\n"
    assert document.guess(before + "y = square.wi").text.startswith("dth\ny")  # type: ignore[union-attr]
    assert document.guess(before + "def area_of(squ").text.startswith("are):\n")  # type: ignore[union-attr]
    assert document.guess(before + "import num").text == "py as np\n"  # type: ignore[union-attr]
    assert document.guess(before + "deleted_na").text == "me(1)"  # type: ignore[union-attr]


def test_the_end_of_what_is_written_is_no_evidence_of_itself() -> None:
    """Otherwise every text would be found where it stands."""
    assert Document.of("", [], "").guess("nothing like this before") is None


def test_a_guess_is_bounded_and_tells_if_it_was_cut() -> None:
    """A long text gives as much as an engine can verify."""
    guess = Document.of("start_here " + "word " * 100, [], "").guess("x = start_here")
    assert guess is not None
    assert (len(guess.text), guess.whole) == (GUESS_CHARS, False)
