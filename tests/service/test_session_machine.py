"""What a session decides: when it asks, shows, withdraws, and asks for the text again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.service.documents import Change, Lost, Position
from keyahead.service.engines import key_of
from keyahead.service.model import Answer, EngineUnavailable, FinishReason, Mode, OutcomeKind, Overloaded, Query, Source, Trigger
from keyahead.service.positions import Encoding
from keyahead.service.session_machine import FOLLOW_UP_S, MAX_DOCUMENTS, SessionMachine
from keyahead.service.session_model import (
    Ask,
    Close,
    Complete,
    Edit,
    Effect,
    Failure,
    MoveCursor,
    Open,
    Pacing,
    Record,
    Release,
    Resync,
    Send,
    Settle,
    Stop,
    Suggestion,
    Warm,
    Withdraw,
)

T = TypeVar("T")
HEAD = "def add(a, b):\n    "


def answer(text: str = "return a + b", reason: FinishReason = FinishReason.STOP, source: Source = Source.ENGINE) -> Answer:
    """An answer with some text."""
    return Answer(text, reason, source, 10, 5)


class Session:
    """A machine with one document `d` open, and a client that counts versions and milliseconds."""

    def __init__(self, text: str = HEAD, suffix: str = "\n", *, ask_on_edit: bool = True, max_bytes: int = 1000) -> None:
        self.machine = SessionMachine("key", max_bytes)
        self.version = 1
        self.now = 0.0
        self.line, self.character = text.count("\n"), len(text.rpartition("\n")[2])
        self.opened = self.machine.handle(
            Open("d", 1, Query(text, suffix, path="a.py", tenant="acme"), Encoding.UTF32, ask_on_edit=ask_on_edit), self.now
        )

    def type(self, text: str, after: float = 0.2) -> list[Effect]:
        """Insert at the cursor, on its line."""
        self.now += after
        at = Position(self.line, self.character)
        self.version += 1
        self.character += len(text)
        return self.machine.handle(Edit("d", self.version - 1, self.version, (Change(at, at, text),)), self.now)

    def answer(self, effects: Iterable[Effect], answered: Answer, after: float = 0.05) -> list[Effect]:
        """Answer what the effects ask for."""
        (asked,) = of(effects, Complete)
        self.now += after
        return self.machine.answered("d", asked.serial, answered, self.now)

    def ask(self, mode: Mode | None = None) -> list[Effect]:
        """Ask by hand."""
        return self.machine.handle(Ask("d", self.version, Trigger.MANUAL, mode, "mine"), self.now)


def of(effects: Iterable[Effect], kind: type[T]) -> list[T]:
    """The effects, or the replies sent, of one kind."""
    parts = [each.reply if isinstance(each, Send) else each for each in effects]
    return [each for each in parts if isinstance(each, kind)]


def outcomes(effects: Iterable[Effect]) -> list[tuple[OutcomeKind, int]]:
    """What is recorded: kinds and accepted characters."""
    return [(each.outcome.kind, each.outcome.accepted_chars) for each in of(effects, Record)]


def test_opening_a_document_warms_it_and_asks_nothing() -> None:
    """The engine reads the prompt of the place the cursor is at."""
    (warm,) = Session().opened
    assert isinstance(warm, Warm)
    assert (warm.query.prefix, warm.query.suffix, warm.query.tenant, warm.query.path) == (HEAD, "\n", "acme", "a.py")
    assert warm.query.session_id


def test_an_edit_asks_by_itself_and_its_answer_is_shown() -> None:
    """At once, automatically, for the text as it is now; the suggestion names the version."""
    session = Session()
    effects = session.type("r")
    (asked,) = of(effects, Complete)
    assert (asked.query.prefix, asked.query.trigger, asked.seconds) == (HEAD + "r", Trigger.AUTOMATIC, None)
    (shown,) = of(session.answer(effects, answer("eturn")), Suggestion)
    assert (shown.version, shown.answer.text, shown.debounce_ms, shown.request_id) == (2, "eturn", 0, asked.query.request_id)


def test_every_request_of_a_document_has_the_same_session_key_and_a_serial_of_its_own() -> None:
    """By the key the pipeline supersedes; by the serial an outdated answer is told from the awaited one."""
    session = Session()
    (first,), (second,) = of(session.type("r"), Complete), of(session.type("x"), Complete)
    assert first.query.session_id == second.query.session_id
    assert session.machine.answered("d", first.serial, answer("eturn"), 1.0) == []
    assert of(session.machine.answered("d", second.serial, answer("= 1"), 1.0), Suggestion)


def test_without_ask_on_edit_an_edit_stops_what_was_asked_by_hand() -> None:
    """Its answer would be for a text that is gone; nothing is asked in its place."""
    session = Session(ask_on_edit=False)
    assert not of(session.type("r"), Complete)
    (asked,) = of(session.ask(mode=Mode.BLOCK), Complete)
    assert (asked.query.request_id, asked.query.trigger, asked.query.mode) == ("mine", Trigger.MANUAL, Mode.BLOCK)
    effects = session.type("e")
    assert of(effects, Stop) == [Stop("d")]
    assert session.machine.answered("d", asked.serial, answer(), 1.0) == []


def test_typing_through_a_finished_suggestion_says_and_asks_nothing() -> None:
    """Until it is used up: then it was accepted, and the next one is asked for."""
    session = Session()
    session.answer(session.type("r"), answer("eturn"))
    for character in "etur":
        assert session.type(character) == []
    effects = session.type("n")
    assert outcomes(effects) == [(OutcomeKind.ACCEPTED, 5)]
    assert len(of(effects, Complete)) == 1
    assert not of(effects, Withdraw)


def test_typing_something_else_withdraws() -> None:
    """The client is told, the outcome counted, the next suggestion asked for."""
    session = Session()
    effects = session.type("r")
    (asked,) = of(effects, Complete)
    session.answer(effects, answer("eturn"))
    effects = session.type("a")
    assert of(effects, Withdraw) == [Withdraw("d", asked.query.request_id)]
    assert outcomes(effects) == [(OutcomeKind.WITHDRAWN, 0)]
    assert len(of(effects, Complete)) == 1


def test_typing_through_an_unfinished_suggestion_asks_for_more_of_it() -> None:
    """Under the same request id; the longer one replaces it without an outcome, an empty answer leaves it."""
    session = Session()
    effects = session.type("r")
    (asked,) = of(effects, Complete)
    session.answer(effects, answer("etur", FinishReason.PARTIAL))
    effects = session.type("e")
    (again,) = of(effects, Complete)
    assert again.query.request_id == asked.query.request_id
    assert session.answer(effects, answer("", FinishReason.DEADLINE))[1:] == []
    effects = session.type("t")
    (shown,) = of(session.answer(effects, answer("urn a + b", source=Source.IN_FLIGHT)), Suggestion)
    assert shown.answer.text == "urn a + b"
    assert session.type("u") == []


def test_what_was_cut_short_follows_by_itself() -> None:
    """Patiently, once, and is sent only if there is more to show."""
    session = Session()
    effects = session.answer(session.type("r"), answer("eturn", FinishReason.PARTIAL))
    (more,) = of(effects, Complete)
    assert (more.query.trigger, more.seconds) == (Trigger.MANUAL, FOLLOW_UP_S)
    (shown,) = of(session.answer(effects, answer("eturn a + b", FinishReason.DEADLINE)), Suggestion)
    assert shown.request_id == more.query.request_id

    session = Session()
    effects = session.answer(session.type("r"), answer("eturn", FinishReason.PARTIAL))
    assert session.answer(effects, answer("eturn")) == []


def test_an_answer_cut_to_nothing_follows_too_and_withdraws_nothing_when_it_stays_empty() -> None:
    """The first empty one tells the client that nothing is shown; the second would tell nothing new."""
    session = Session()
    effects = session.answer(session.type("r"), answer("", FinishReason.DEADLINE))
    assert len(of(effects, Suggestion)) == 1
    assert not of(session.answer(effects, answer("")), Suggestion)


def test_a_follow_up_that_fails_is_not_the_client_s_business() -> None:
    """It has not asked for it."""
    session = Session()
    (more,) = of(session.answer(session.type("r"), answer("eturn", FinishReason.PARTIAL)), Complete)
    assert session.machine.failed("d", more.serial, EngineUnavailable(), 1.0) == []


def test_a_failure_is_told_and_lengthens_the_hint_when_refused() -> None:
    """The stream goes on, and the next key asks as every key does: the hint is for clients that ask by themselves."""
    session = Session()
    (asked,) = of(session.type("r"), Complete)
    error = Overloaded("full", 1.0)
    effects = session.machine.failed("d", asked.serial, error, 0.3)
    assert of(effects, Failure) == [Failure("d", asked.query.request_id, error)]
    assert of(effects, Pacing) == [Pacing(400)]
    assert of(session.type("e"), Complete)


@pytest.mark.parametrize("base", [0, 1, 3])
def test_a_lost_or_reordered_version_is_answered_with_resync_once(base: int) -> None:
    """What was sent before the client knew is dropped; Open makes it good."""
    session = Session()
    session.answer(session.type("r"), answer("eturn"))
    effects = session.machine.handle(Edit("d", base, base + 1, ()), 1.0)
    assert of(effects, Resync) == [Resync("d", 2, Lost.VERSION)]
    assert of(effects, Release) == [Release("d")]
    assert outcomes(effects) == [(OutcomeKind.WITHDRAWN, 0)]
    assert session.type("e") == []
    assert session.ask() == []
    session.machine.handle(Open("d", 9, Query("x", ""), ask_on_edit=True), 2.0)
    assert of(session.machine.handle(Edit("d", 9, 10, ()), 2.1), Complete)


def test_a_document_that_is_not_open_needs_opening() -> None:
    """Never opened, or closed."""
    session = Session()
    assert of(session.machine.handle(Ask("other", 1, Trigger.MANUAL, None, ""), 0), Resync) == [Resync("other", 0, Lost.NOT_OPEN)]
    assert of(session.machine.handle(Close("d"), 0), Release) == [Release("d")]
    assert of(session.ask(), Resync) == [Resync("d", 0, Lost.NOT_OPEN)]
    assert session.machine.handle(Close("d"), 0) == []


def test_positions_and_sizes_out_of_bounds_need_opening() -> None:
    """The texts differ, or the text is too long: the document is given up."""
    session = Session(max_bytes=40)
    effects = session.machine.handle(MoveCursor("d", 1, Position(7, 0)), 0)
    assert of(effects, Resync) == [Resync("d", 1, Lost.POSITION)]
    session = Session(max_bytes=40)
    assert of(session.type("x" * 40), Resync) == [Resync("d", 1, Lost.SIZE)]


def test_moving_the_cursor_withdraws_and_warms_another_line() -> None:
    """Within the line the prompt's beginning stays; a move to where it is changes nothing."""
    session = Session()
    effects = session.type("r")
    session.answer(effects, answer("eturn"))
    assert session.machine.handle(MoveCursor("d", 2, Position(1, 5)), 1) == []
    effects = session.machine.handle(MoveCursor("d", 2, Position(1, 4)), 1)
    assert [type(each) for each in effects] == [Send, Record]
    (warm,) = session.machine.handle(MoveCursor("d", 2, Position(0, 3)), 1)
    assert isinstance(warm, Warm)
    assert warm.query.prefix == "def"


@pytest.mark.parametrize(
    ("settles", "expected"),
    [
        ([(OutcomeKind.ACCEPTED, 0)], (OutcomeKind.ACCEPTED, 5)),
        ([(OutcomeKind.REJECTED, 0)], (OutcomeKind.REJECTED, 0)),
        ([(OutcomeKind.PARTIAL, 2), (OutcomeKind.PARTIAL, 3), (OutcomeKind.REJECTED, 0)], (OutcomeKind.PARTIAL, 3)),
        ([(OutcomeKind.PARTIAL, 2), (OutcomeKind.ACCEPTED, 0)], (OutcomeKind.ACCEPTED, 5)),
    ],
)
def test_a_suggestion_has_one_outcome(settles: list[tuple[OutcomeKind, int]], expected: tuple[OutcomeKind, int]) -> None:
    """At its end; what comes for it later is ignored, and so is what comes for another."""
    session = Session()
    effects = session.type("r")
    (asked,) = of(effects, Complete)
    session.answer(effects, answer("eturn"))
    assert session.machine.handle(Settle("another", OutcomeKind.ACCEPTED), 1) == []
    found = [
        outcome for kind, chars in settles for outcome in outcomes(session.machine.handle(Settle(asked.query.request_id, kind, chars), 1))
    ]
    assert found == [expected]
    assert session.machine.handle(Settle(asked.query.request_id, OutcomeKind.ACCEPTED), 1) == []
    assert session.machine.end() == [Release("d")]


def test_the_end_of_the_stream_counts_what_is_shown() -> None:
    """And releases every document."""
    session = Session()
    session.answer(session.type("r"), answer("eturn"))
    effects = session.machine.end()
    assert outcomes(effects) == [(OutcomeKind.WITHDRAWN, 0)]
    assert of(effects, Release) == [Release("d")]


@pytest.mark.parametrize(("home", "path", "stays"), [("window 1", "a.py", True), ("", "a.py", True), ("", "", False)])
def test_a_document_opened_in_another_stream_comes_to_its_engine(home: str, path: str, stays: bool) -> None:
    """By what the client calls its buffer, or by the path; without either, streams are spread. Superseding knows the stream alone."""
    opened = [SessionMachine(key, 100, home).handle(Open("d", 1, Query("", "", path=path)), 0) for key in ("one", "other")]
    first, second = (of(effects, Warm)[0].query for effects in opened)
    assert (key_of(first) == key_of(second)) == stays
    assert first.session_id != second.session_id


def test_the_document_used_longest_ago_makes_room() -> None:
    """By number, and by bytes also when documents grow."""
    machine = SessionMachine("key", 100)
    for index in range(MAX_DOCUMENTS):
        machine.handle(Open(f"d{index}", 1, Query("", "")), 0)
    machine.handle(Ask("d0", 1, Trigger.MANUAL, None, ""), 0)
    assert of(machine.handle(Open("new", 1, Query("", "")), 0), Release) == [Release("d1")]

    machine = SessionMachine("key", 100)
    machine.handle(Open("a", 1, Query("x" * 100, "")), 0)
    machine.handle(Open("b", 1, Query("x" * 90, "")), 0)
    start = Position(0, 0)
    assert not of(machine.handle(Edit("b", 1, 2, (Change(start, start, "x" * 10),)), 0), Release)
    machine.handle(Edit("a", 1, 2, (Change(start, Position(0, 1), ""),)), 0)
    assert not of(machine.handle(Open("c", 1, Query("", "")), 0), Release)
    assert of(machine.handle(Open("c", 1, Query("xx", "")), 0), Release) == [Release("c"), Release("b")]


def test_late_answers_lengthen_the_hint_and_the_client_is_told() -> None:
    """A suggestion carries it; a key without one brings it in a message of its own, once."""
    session = Session()
    for _ in range(12):
        effects = session.type("x", 0.1)
        (shown,) = of(session.answer(effects, answer(" "), after=0.2), Suggestion)
        session.now -= 0.2
    assert shown.debounce_ms == 100
    effects = session.type("y", 0.1)
    assert not of(effects, Pacing)
    session.answer(effects, answer("abcdefghijklmnopqrst", source=Source.MEMORY))
    told = [pacing.debounce_ms for character in "abcdefghijklmnopqrs" for pacing in of(session.type(character, 0.1), Pacing)]
    assert told == sorted(set(told), reverse=True)
    assert told[-1] < 40


KEYS = st.sampled_from("return a+b\n") | st.sampled_from(["lost", "move", "ask", "accept", "answer", "cut", "fail", "open"])


@settings(max_examples=200)
@given(keys=st.lists(KEYS, max_size=40))
def test_whatever_happens_the_state_is_sound(keys: list[str]) -> None:
    """At most one suggestion is asked for in a document, and what is shown is at its cursor."""
    session = Session()
    asked: Complete | None = None
    for key in keys:
        machine, now = session.machine, session.now
        if key == "lost":
            effects = machine.handle(Edit("d", 1000, 1001, ()), now)
        elif key == "move":
            effects = machine.handle(MoveCursor("d", session.version, Position(0, 1)), now)
        elif key == "ask":
            effects = session.ask()
        elif key == "accept":
            effects = machine.handle(Settle("mine", OutcomeKind.ACCEPTED), now)
        elif key == "open":
            session.version, session.line, session.character = 1, 0, 0
            effects = machine.handle(Open("d", 1, Query("", ""), Encoding.UTF32, ask_on_edit=True), now)
        elif key in {"answer", "cut", "fail"}:
            serial = asked.serial if asked else 0
            reason = FinishReason.STOP if key == "answer" else FinishReason.PARTIAL
            effects = (
                machine.failed("d", serial, Overloaded("full", 1), now)
                if key == "fail"
                else machine.answered("d", serial, answer("return a+b", reason), now)
            )
        else:
            effects = session.type(key)
            if key == "\n":
                session.line, session.character = session.line + 1, 0
        machine.check_integrity()
        started = of(effects, Complete)
        assert len(started) <= 1
        asked = started[0] if started else asked
