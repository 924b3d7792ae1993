"""Whether a run shows that the objectives are met: pass, fail or inconclusive, at 95 % confidence. Pure."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

from keyahead.loadtest.binomial import Finding, judge_at_least, judge_at_most, lower, upper
from keyahead.loadtest.judge import Outcome


class Status(StrEnum):
    """Of an objective, and of a run."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    """The generator did not play what was planned, so that nothing is shown."""
    NOT_MEASURED = "not measured"


EXIT_CODES = {Status.PASS: 0, Status.FAIL: 1, Status.INCONCLUSIVE: 3, Status.INVALID: 3}
"""2 is for wrong usage."""


class ObjectivesError(Exception):
    """The objectives cannot be read; the text is a sentence with the cure."""


@dataclass(frozen=True, slots=True)
class Objectives:
    """The bounds; `objectives.toml` says what each means."""

    slow_share: float
    failed_share: float
    least_useful_share: float
    tokens_after_cancel: float
    lateness_p99_ms: float
    sent_share: float


@dataclass(frozen=True, slots=True)
class Case:
    """One objective and how it was met."""

    name: str
    status: Status
    value: float | None
    bound: float
    explanation: str
    low: float | None = None
    high: float | None = None
    """Bounds of the true share, each with 95 % confidence; None for what is no share of a sample."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All objectives together."""

    status: Status
    cases: tuple[Case, ...]

    def to_json(self) -> dict[str, Any]:
        """As the result file has it."""
        return {"status": self.status.value, "objectives": [dataclasses.asdict(case) for case in self.cases]}


def load(path: Path | None = None) -> Objectives:
    """The objectives of a file, or ours. Raises ObjectivesError."""
    try:
        text = path.read_text() if path else (files("keyahead.loadtest") / "objectives.toml").read_text()
        table = tomllib.loads(text)
        return Objectives(
            slow_share=_bound(table["latency"]["slow_share"], 1),
            failed_share=_bound(table["errors"]["failed_share"], 1),
            least_useful_share=_bound(table["useful"]["least_share"], 1),
            tokens_after_cancel=_bound(table["cancel"]["tokens_after"]),
            lateness_p99_ms=_bound(table["generator"]["lateness_p99_ms"]),
            sent_share=_bound(table["generator"]["sent_share"], 1),
        )
    except OSError as error:
        raise ObjectivesError(f"{path} cannot be read ({error.strerror}): name a file of objectives.") from None
    except KeyError as error:
        raise ObjectivesError(f"{path} lacks {error}: start from a copy of keyahead's objectives.toml.") from None
    except (ValueError, TypeError):
        raise ObjectivesError(
            f"{path} is not TOML with a number for each objective, a share from 0 to 1: start from a copy of keyahead's objectives.toml."
        ) from None


def _bound(value: Any, most: float = math.inf) -> float:
    """A number that can be a bound. Raises ValueError or TypeError."""
    if not 0 <= float(value) <= most:
        raise ValueError
    return float(value)


def judge(result: Mapping[str, Any], objectives: Objectives, cancels: Mapping[str, float] | None = None) -> Verdict:
    """The verdict on one system's run. `cancels` has the engine's counts of cancelled requests and of tokens after a cancel."""
    cases = (
        _latency(result["figures"], objectives),
        _errors(result["figures"], objectives),
        _useful(result["figures"], objectives),
        _cancel(cancels, objectives),
        *_generator(result["generator"], objectives),
    )
    return Verdict(_overall([case.status for case in cases]), cases)


def _overall(statuses: Sequence[Status]) -> Status:
    """The worst, where a run that shows nothing is worse than one that shows a failure."""
    order = (Status.INVALID, Status.FAIL, Status.INCONCLUSIVE)
    return next((status for status in order if status in statuses), Status.PASS)


def _share(name: str, finding: Finding, count: int, total: int, bound: float, text: str) -> Case:
    """The case of a share of a sample."""
    value = count / total if total else None
    return Case(name, Status(finding.value), value, bound, text, lower(count, total), upper(count, total))


def _latency(figures: Mapping[str, Any], objectives: Objectives) -> Case:
    slow, eligible = figures["slow"], figures["eligible"]
    bound = objectives.slow_share
    text = (
        f"{slow} of {eligible} eligible requests took more than 200 ms or failed: at 95 % confidence "
        f"between {lower(slow, eligible):.2%} and {upper(slow, eligible):.2%}, allowed are {bound:.2%}"
    )
    return _share("latency.p99", judge_at_most(slow, eligible, bound), slow, eligible, bound, text)


def _errors(figures: Mapping[str, Any], objectives: Objectives) -> Case:
    failed, asked = figures["outcomes"].get(Outcome.FAILED.value, 0), figures["asked"]
    bound = objectives.failed_share
    codes = ", ".join(f"{count} {code}" for code, count in sorted(figures["errors"].items()))
    text = f"{failed} of {asked} requests failed{f' ({codes})' if codes else ''}; allowed are {bound:.2%}"
    return _share("errors", judge_at_most(failed, asked, bound), failed, asked, bound, text)


def _useful(figures: Mapping[str, Any], objectives: Objectives) -> Case:
    useful, typed = figures["useful_characters"], figures["typed_characters"]
    bound = objectives.least_useful_share
    text = f"{useful} of {typed} characters stood on the screen when they were typed; {bound:.0%} should"
    return _share("useful", judge_at_least(useful, typed, bound), useful, typed, bound, text)


def _cancel(cancels: Mapping[str, float] | None, objectives: Objectives) -> Case:
    bound = objectives.tokens_after_cancel
    if not cancels or not cancels["cancelled"]:
        why = "nothing was cancelled" if cancels else "the engine's metrics were not named"
        return Case("cancel", Status.NOT_MEASURED, None, bound, f"Not measured: {why}")
    value = cancels["tokens_after"] / cancels["cancelled"]
    text = f"The engine computed {value:.1f} tokens after each of {cancels['cancelled']:.0f} cancels; at most {bound:.0f} are allowed"
    return Case("cancel", Status.PASS if value <= bound else Status.FAIL, value, bound, text)


def _generator(generator: Mapping[str, Any], objectives: Objectives) -> tuple[Case, Case]:
    late, share = generator["lateness_ms"]["p99"], generator["sent"] / generator["planned"] if generator["planned"] else 0.0
    late_text = f"1 of 100 keys was sent more than {late:.1f} ms late; at most {objectives.lateness_p99_ms:.0f} ms are allowed"
    sent_text = f"{generator['sent']} of {generator['planned']} planned requests were sent"
    return (
        Case("generator.lateness", _valid(late <= objectives.lateness_p99_ms), late, objectives.lateness_p99_ms, late_text),
        Case("generator.sent", _valid(share >= objectives.sent_share), share, objectives.sent_share, sent_text),
    )


def _valid(is_valid: bool) -> Status:  # noqa: FBT001  # its only argument
    return Status.PASS if is_valid else Status.INVALID
