"""What answers are worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.judge import Answer, Ask, Outcome
from keyahead.loadtest.plan import Key, Plan
from keyahead.loadtest.typist import Typist
from tests.loadtest.conftest import passage, plan


def type_all(typist: Typist, answers: dict[int, tuple[float, str]]) -> None:
    """Hit every key; question `number` is answered `delay` seconds after its key with a text. Keys come first at equal moments."""
    pending: list[tuple[float, int]] = []
    asks: dict[int, Ask] = {}
    while pending or typist.due_s is not None:
        due = typist.due_s
        if pending and (due is None or pending[0][0] < due):
            at_s, number = pending.pop(0)
            typist.answered(asks[number], Answer(answers[number][1]), at_s)
        elif ask := typist.act():
            typist.sent(ask, ask.at_s)
            asks[ask.number] = ask
            if ask.number in answers:
                pending = sorted([*pending, (ask.at_s + answers[ask.number][0], ask.number)])
    typist.finish(typist.plan.keys[-1].at_s)


def useful(typist: Typist) -> str:
    """One letter for each key that typed text: useful, predicted, or neither."""
    return "".join("u" if key.useful else "p" if key.predicted else "-" for key in typist.typed())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, "------"),
        ({1: (0.05, "bcdef")}, "-uuuuu"),  # in time for the next key, then typed through
        ({1: (0.15, "bcdef")}, "-puuuu"),  # late: the rest is shown
        ({1: (9.0, "bcdef")}, "-ppppp"),  # never seen
        ({1: (0.05, "bcXX")}, "-uu---"),  # right at first
        ({1: (0.05, "Xcde")}, "------"),
        ({1: (0.05, "bc"), 2: (0.05, "cdef")}, "-uuuuu"),  # a newer one goes on
        ({1: (0.05, "bcdef"), 2: (0.05, "cX")}, "-uuppp"),  # a newer one is wrong and replaces the right one
        ({1: (0.25, "bcdef"), 2: (0.05, "cX")}, "-puppp"),  # an older one that comes late does not replace a newer one
        ({1: (0.05, "bcdef  \n")}, "-uuuuu"),  # white space at the end shows nothing
        ({1: (0.05, "bcdef"), 2: (0.05, "")}, "-uuuuu"),  # an empty answer leaves what is shown
    ],
)
def test_useful_is_what_was_on_the_screen(answers: dict[int, tuple[float, str]], expected: str) -> None:
    """The numbers of the questions are those of the characters typed: after question 1 stands "a"."""
    typist = Typist(plan("abcdef"))
    type_all(typist, answers)
    assert useful(typist) == expected


def test_records_say_when_answers_came() -> None:
    """On time is within 200 ms of the key; painted needs a text before the next key."""
    typist = Typist(plan("abcd"))
    type_all(typist, {1: (0.05, "bcd"), 2: (0.15, "cX"), 3: (0.05, ""), 4: (0.3, "x")})
    records = {record.number: record for record in typist.records}
    assert [(records[n].on_time, records[n].painted, records[n].before_next_key, records[n].agrees) for n in (1, 2, 3, 4)] == [
        (True, True, True, 3),
        (True, False, False, 1),
        (True, False, True, 0),
        (False, True, True, 0),
    ]


def test_mistakes_and_jumps_dismiss_ghost_text() -> None:
    """Nothing is useful that was shown before a wrong key, or asked for behind one; what is typed after the correction is judged anew."""
    keys = (
        Key(1.0, 0, 0, asks=False),
        Key(1.1, 0, 1),
        Key(1.2, 0, 1, "x"),
        Key(1.3, 0, 1),
        Key(1.4, 0, 2),
        Key(1.5, 0, 3),
        Key(1.6, 1, 0, asks=False),
        Key(1.7, 1, 1),
    )
    typist = Typist(Plan(0, (passage("abc"), passage("bcd")), keys))
    type_all(typist, {1: (0.05, "bc"), 2: (0.05, "bc"), 5: (0.05, "bcd")})
    assert useful(typist) == "-pp-"


def test_what_is_open_at_the_end_is_unanswered() -> None:
    """Every question has exactly one record."""
    typist = Typist(plan("abc"))
    type_all(typist, {2: (0.01, "c")})
    assert sorted((record.number, record.outcome) for record in typist.records) == [
        (1, Outcome.UNANSWERED),
        (2, Outcome.ANSWERED),
        (3, Outcome.UNANSWERED),
    ]


def test_a_right_suggestion_is_taken() -> None:
    """Whoever takes suggestions stops typing at a right one, takes it, and goes on behind it; the keys it saves count as typed."""
    typist = Typist(plan("abcdefgh" * 3), takes=True)
    type_all(typist, {1: (0.05, "bcdefghabcdefgh")})
    typed = typist.typed()
    assert len(typed) == 24
    assert any(key.taken for key in typed)
    assert all(key.useful for key in typed if key.taken)
    assert typist.records[-1].at_s > typist.plan.keys[-1].at_s


@given(st.dictionaries(st.integers(1, 30), st.tuples(st.floats(0.001, 1.0), st.text("ab", max_size=8)), max_size=20), st.booleans())
def test_nothing_counts_twice(answers: dict[int, tuple[float, str]], takes: bool) -> None:
    """Each character is typed once whatever is answered; useful ones are predicted; each question has one record."""
    typist = Typist(plan("abbaabab" * 3), takes=takes)
    type_all(typist, answers)
    typed = typist.typed()
    assert len(typed) == 24
    assert all(key.predicted for key in typed if key.useful)
    assert all(key.useful for key in typed if key.taken)
    assert len({record.number for record in typist.records}) == len(typist.records)


@given(st.dictionaries(st.integers(1, 30), st.tuples(st.floats(0.001, 1.0), st.text("ab", max_size=8)), max_size=20))
def test_answers_do_not_change_the_keys(answers: dict[int, tuple[float, str]]) -> None:
    """Without taking suggestions, every system gets the same questions at the same moments."""
    typist = Typist(plan("abbaabab" * 3))
    type_all(typist, answers)
    asked = sorted((record.number, record.at_s) for record in typist.records if not record.follow_up)
    assert asked == [(number, key.at_s) for number, key in enumerate(typist.plan.keys) if key.asks]
