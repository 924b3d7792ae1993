"""A suggestion as it stands in an editor: typed through, extended, taken in parts, and in the end settled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keyahead.service.documents import Splice
from keyahead.service.model import Answer, FinishReason, Outcome, OutcomeKind, Source

UNFINISHED: Final = frozenset({FinishReason.PARTIAL, FinishReason.DEADLINE})
"""Answers that had to end before the suggestion did."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What an editor shows at its cursor."""

    request_id: str
    at: int
    """Offset of the cursor in the text."""
    text: str
    """The whole suggestion, what has been typed of it included."""
    finished: bool
    """Whether no more of it is to come."""
    source: Source
    latency_ms: float
    num_typed: int = 0
    """Characters of it that are in the text already."""
    num_accepted: int = 0
    """Characters of it that the user is known to have taken."""

    @classmethod
    def of(cls, answer: Answer, request_id: str, at: int, seconds: float) -> Shown:
        """An answer, shown after so long."""
        return cls(request_id, at, answer.text, answer.finish_reason not in UNFINISHED, answer.source, seconds * 1e3)

    @property
    def rest(self) -> str:
        """What the editor still shows."""
        return self.text[self.num_typed :]

    def typed_on(self, splices: Sequence[Splice], cursor: int) -> Shown | None:
        """After an edit that typed what it begins with; None after any other."""
        at, rest = self.at, self.rest
        for splice in splices:
            if splice.removed or splice.at != at or not rest.startswith(splice.text):
                return None
            at, rest = at + len(splice.text), rest[len(splice.text) :]
        if at != cursor:
            return None
        return dataclasses.replace(self, at=at, num_typed=len(self.text) - len(rest))

    def extended(self, answer: Answer) -> Shown | None:
        """With an answer that is more of the same; None if it is not."""
        if not answer.text.startswith(self.rest):
            return None
        text = self.text[: self.num_typed] + answer.text
        return dataclasses.replace(self, text=text, finished=answer.finish_reason not in UNFINISHED)

    def accepted(self, num_chars: int) -> Shown:
        """After the user has taken so many of its characters."""
        return dataclasses.replace(self, num_accepted=min(max(self.num_accepted, num_chars), len(self.text)))

    def outcome(self, kind: OutcomeKind, session_id: str) -> Outcome:
        """How it ended; one that was taken in part ended so, whatever happened to its rest."""
        if kind is OutcomeKind.ACCEPTED:
            accepted = len(self.text)
        else:
            accepted = self.num_accepted
            kind = OutcomeKind.PARTIAL if accepted else kind
        return Outcome(kind, self.request_id, session_id, len(self.text), accepted, self.source, self.latency_ms)
