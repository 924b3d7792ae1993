"""What unary callers tell of the suggestions they were given. Which those were is remembered without their text."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Final

from keyahead.service.model import Answer, Outcome, OutcomeKind, Query

MAX_ANSWERS: Final = 4096
"""Answers remembered: those of some minutes at the service's busiest."""


class Reports:
    """The last answers that a client may still report on."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str], Outcome] = OrderedDict()
        """By tenant and request id; as the outcome that counts if nothing was accepted."""

    def remember(self, query: Query, answer: Answer) -> None:
        """An answer is given; an empty one shows nothing that something could become of."""
        if answer.text:
            self._answers[query.tenant, query.request_id] = Outcome(
                OutcomeKind.WITHDRAWN,
                query.request_id,
                query.session_id,
                len(answer.text),
                0,
                answer.source,
                answer.timings.total,
            )
            if len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)

    def take(self, tenant: str, request_id: str, kind: OutcomeKind, accepted_chars: int) -> Outcome | None:
        """The outcome of an answer, once; None when it is not known (any more)."""
        given = self._answers.pop((tenant, request_id), None)
        if given is None:
            return None
        accepted = {OutcomeKind.ACCEPTED: given.shown_chars, OutcomeKind.PARTIAL: min(accepted_chars, given.shown_chars)}
        return dataclasses.replace(given, kind=kind, accepted_chars=accepted.get(kind, 0))
