"""One simulated person: hits the keys of a plan, and takes suggestions if told to. Knows neither clock nor network.

Whether suggestions are taken decides what a run can show. If they are not, all systems get the same keys at the same moments: the answers
are judged, and the person types on. That is the way to compare. If they are, the person stops at a suggestion that is wholly right, after
typing through as much of it as people do, takes it after as long as people take to decide, and types on behind it; from then on each system
has keys of its own.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

from keyahead.loadtest import pace
from keyahead.loadtest.judge import Answer, Ask, Outcome, Record, Screen, Typed
from keyahead.loadtest.plan import Key, Plan
from keyahead.loadtest.texts import Passage

FOLLOW_UP_S = 0.3
"""After an unfinished answer, a plugin asks again if no key comes within this; the README tells plugin authors so."""
MIN_TAKEN_CHARACTERS = 3
"""Of suggestions of at most 2 characters, the 21 developers took 1 of 58."""


class Typist:
    """The state of one person's typing. Times are seconds from the plan's start."""

    def __init__(self, plan: Plan, *, takes: bool = False) -> None:
        self.plan = plan
        self.records: list[Record] = []
        self._takes = takes
        self._rng = random.Random(f"decisions {plan.typist}")  # noqa: S311  # repeatable on purpose
        self._screen = Screen(plan.passages)
        self._next = 0
        self._shift_s = 0.0
        """By how much decisions have put off the plan."""
        self._asked = -1
        self.num_taken = 0
        """Suggestions taken so far."""
        self._open: dict[int, Ask] = {}
        self._sent_s: dict[int, float] = {}
        self._taking_at_s: float | None = None
        self._patience: tuple[float, int] = (-1.0, 0)
        """When a suggestion appeared, and how many of its characters are typed before the person decides."""

    @property
    def due_s(self) -> float | None:
        """When to call `act`; None if the person is done."""
        if self._taking_at_s is not None:
            return self._taking_at_s
        return self._key.at_s + self._shift_s if self._next < len(self.plan.keys) else None

    @property
    def place(self) -> tuple[Passage, str]:
        """The passage where the cursor is, and what is written in it, mistakes included."""
        screen = self._screen
        passage = self.plan.passages[screen.passage]
        return passage, passage.typed[: screen.position] + screen.mistake

    def act(self) -> Ask | None:
        """Does what is due; the question that a plugin asks then, if any."""
        at_s = self.due_s
        if at_s is None:
            return None
        if self._taking_at_s is not None:
            return self._take(at_s)
        if self._decides(at_s):
            return None
        key = self._key
        self._screen.hit(key, at_s)
        self._next += 1
        if key.asks:
            return self._ask(at_s)
        self._asked += 1  # What was asked before is outdated.
        return None

    def sent(self, ask: Ask, at_s: float) -> None:
        """The question has been sent."""
        self._open[ask.number] = ask
        self._sent_s[ask.number] = at_s

    def answered(self, ask: Ask, answer: Answer, at_s: float) -> Ask | None:
        """An answer has come. The question to ask when its moment comes, if `still_waits` then, since there is more to be had."""
        agrees = self._screen.answer(ask, answer.text, at_s)
        self._close(
            ask,
            at_s,
            Outcome.ANSWERED,
            detail=answer.source,
            characters=len(answer.text.rstrip()),
            agrees=agrees,
            before_next_key=self.still_waits(ask),
            stages_ms=answer.stages_ms,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
        )
        if not answer.unfinished or ask.follow_up or not self.still_waits(ask):
            return None
        return Ask(ask.number, at_s + FOLLOW_UP_S, ask.passage, ask.passage_number, ask.position, ask.mistake, follow_up=True)

    def still_waits(self, ask: Ask) -> bool:
        """Whether nothing has been typed since."""
        return ask.number == self._asked

    def unanswered(self, ask: Ask, outcome: Outcome, at_s: float, detail: str = "") -> None:
        """No answer has come, or will come."""
        self._close(ask, at_s, outcome, detail=detail)

    def finish(self, at_s: float) -> None:
        """The run is over: what is still open has no answer."""
        for ask in list(self._open.values()):
            self.unanswered(ask, Outcome.UNANSWERED, at_s)

    def typed(self) -> list[Typed]:
        """The keys that typed text so far, judged."""
        return self._screen.typed()

    def recent(self, since_s: float) -> tuple[list[Record], list[Typed]]:
        """Records closed and keys typed since a moment, for showing; whether keys were predicted is left out."""
        closed = itertools.takewhile(lambda record: record.done_s >= since_s, reversed(self.records))
        return list(closed), self._screen.recent(since_s)

    @property
    def _key(self) -> Key:
        return self.plan.keys[self._next]

    def _ask(self, at_s: float) -> Ask:
        self._asked += 1
        screen = self._screen
        return Ask(self._asked, at_s, self.plan.passages[screen.passage], screen.passage, screen.position, screen.mistake)

    def _close(self, ask: Ask, at_s: float, outcome: Outcome, **judged: Any) -> None:
        del self._open[ask.number]
        sent_s = self._sent_s.pop(ask.number)
        self.records.append(Record(self.plan.typist, ask.number, ask.at_s, sent_s, at_s, outcome, ask.follow_up, **judged))

    def _decides(self, at_s: float) -> bool:
        """Whether the person stops before the next key to take what is on the screen; that is then due."""
        screen = self._screen
        if not self._takes or not screen.is_right or len(screen.ghost) < MIN_TAKEN_CHARACTERS:
            return False
        shown_at_s, keys = self._patience
        if shown_at_s != screen.shown_at_s:
            keys = pace.typed_through_keys(self._rng)
        self._patience = (screen.shown_at_s, keys - 1)
        if keys > 0:
            return False
        self._taking_at_s = max(at_s, screen.shown_at_s + pace.accept_s(self._rng))
        return True

    def _take(self, at_s: float) -> Ask | None:
        """Takes the suggestion, unless it has changed meanwhile, and skips the keys that it saves."""
        put_off_s = at_s - (self._key.at_s + self._shift_s)
        self._taking_at_s = None
        if not self._screen.is_right:
            self._shift_s += put_off_s
            return None
        self._screen.take(at_s)
        self.num_taken += 1
        while self._next < len(self.plan.keys) and self._is_saved(self._key):
            self._next += 1
        self._shift_s = at_s - self.plan.keys[self._next - 1].at_s
        return self._ask(at_s)

    def _is_saved(self, key: Key) -> bool:
        screen = self._screen
        if key.passage != screen.passage or key.position > screen.position:
            return False
        return key.position < screen.position or not key.mistake
