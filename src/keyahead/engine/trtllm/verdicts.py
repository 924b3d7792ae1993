"""What a rule is: a function that lets a proposal pass, corrects it, or refuses it, and says why and on whose word."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from keyahead.engine.store import SetupError
from keyahead.engine.trtllm.proposal import Proposal


class PlanRefused(SetupError):
    """Rules refuse a proposal; the text has one sentence for each."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """It cannot be built, or not served well."""

    reason: str
    """With the cure, without a full stop."""


@dataclass(frozen=True, slots=True)
class Correction:
    """It can be served with this instead."""

    proposal: Proposal
    reason: str
    """Without a full stop."""


Verdict = Refusal | Correction | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One trap."""

    name: str
    source: str
    """Where NVIDIA's code, documents or users say so."""
    judge: Callable[[Proposal], Verdict]

    def words(self, reason: str) -> str:
        """A verdict as the operator reads it."""
        return f"{reason} [{self.name}: {self.source}]."


def rule(source: str) -> Callable[[Callable[[Proposal], Verdict]], Rule]:
    """Make a function a rule of the same name."""
    return lambda judge: Rule(judge.__name__.replace("_", "-"), source, judge)


def apply(rules: Iterable[Rule], proposal: Proposal) -> tuple[Proposal, tuple[str, ...]]:
    """The proposal as corrected, and why; PlanRefused with every refusal."""
    notes, refusals = [], []
    for each in rules:
        match each.judge(proposal):
            case Refusal(reason):
                refusals.append(each.words(reason))
            case Correction(corrected, reason):
                proposal = corrected
                notes.append(each.words(reason))
    if refusals:
        raise PlanRefused(" ".join(refusals))
    return proposal, tuple(notes)
