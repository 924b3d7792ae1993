"""From a load test's result to a workload and an engine that behave as the real ones did.

Two things a result shows directly: how many requests began a decode anew, and what lies around the engine. Four it does not, and they are
fitted by simulating the same keys. Steps in vain before the first token: so that it takes as long (the stage `first_token` of the answers
that began a decode). Tokens that a later step gives: so that as many answers are cut at the budget. The length of an answer: so that as
many requests find one finished in the cache. How much of one must be there to show anything: so that as many are painted. Latencies and the
engine's use are not fitted: they can be compared.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keyahead.capacity.outcome import Outcome
from keyahead.capacity.simulation import simulate
from keyahead.capacity.typists import Key, Typist
from keyahead.capacity.workload import BUDGET_S, ON_TIME_S, Engine, Workload
from keyahead.loadtest import columns
from keyahead.loadtest.judge import Outcome as Ending
from keyahead.loadtest.judge import Record

SEEDS = range(24)
"""Runs that a fit averages, so that it does not follow one run's chance. With 4, in 2 rounds, an answer had anything from 16 to 27 tokens,
by where the fit began; with these it has 26 to 29."""
_ROUNDS, _HALVINGS = 5, 6
_ANSWER_TOKENS, _VAIN, _GIVEN = (2.0, 40.0), (0.0, 4.0), (1.0, 4.0)
BEGIN_S = 20.0
"""A load test begins with everybody at a file that the engine has never read, as no working day does: what was asked before is left out."""
_AROUND_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_LEAST_HITS = 20
_CACHED = frozenset({"memory", "redis"})


class CalibrationError(Exception):
    """A result cannot be calibrated with; the text is a sentence with the cure."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a load test showed from `BEGIN_S` on, without the follow-ups. Moments are seconds from there."""

    records: tuple[Record, ...]
    duration_s: float

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Run:
        """Keyahead's own part of a result. Raises CalibrationError."""
        try:
            system = result["systems"][0]
            steady, duration_s = system["config"]["shape"] == "steady", float(system["config"]["duration_s"])
            records = tuple(
                dataclasses.replace(record, at_s=record.at_s - BEGIN_S, sent_s=record.sent_s - BEGIN_S, done_s=record.done_s - BEGIN_S)
                for record in columns.to_records(system["records"])
                if not record.follow_up and record.at_s >= BEGIN_S
            )
        except (LookupError, TypeError, ValueError):
            raise CalibrationError("The file is no result of 'keyahead loadtest --output': name one.") from None
        if not steady:
            raise CalibrationError("The result is not of a steady run: calibrate with one of 'keyahead loadtest --shape steady'.")
        run = cls(records, duration_s - BEGIN_S)
        if sum(run.is_hit(record) for record in records) < _LEAST_HITS:
            raise CalibrationError(f"The run has fewer than {_LEAST_HITS} cache hits: make it longer with --duration.")
        return run

    @staticmethod
    def is_hit(record: Record) -> bool:
        """Whether the cache answered."""
        return record.outcome is Ending.ANSWERED and record.detail in _CACHED

    @property
    def typists(self) -> list[Typist]:
        """The keys as they were hit. When somebody jumped to a new place is not in a result."""
        return [tuple(Key(each.at_s, new_place=False) for each in records) for records in self._by_typist()]

    def _by_typist(self) -> list[list[Record]]:
        found: defaultdict[int, list[Record]] = defaultdict(list)
        for record in sorted(self.records, key=lambda record: record.at_s):
            found[record.typist].append(record)
        return [found[typist] for typist in sorted(found)]

    @property
    def new_share(self) -> float:
        """Requests that began a decode. One that was superseded says nothing of itself: it did if the one before it was a hit."""
        began = 0
        for records in self._by_typist():
            after_hit = True
            for record in records:
                superseded = record.outcome is Ending.SUPERSEDED
                began += record.detail == "engine" or (superseded and after_hit)
                after_hit = self.is_hit(record)
        return began / len(self.records)

    @property
    def around_s(self) -> tuple[tuple[float, float], ...]:
        """Quantiles of what a hit takes, which is all but the engine."""
        hits = [record.latency_s for record in self.records if self.is_hit(record)]
        return tuple((share, float(np.quantile(hits, share))) for share in _AROUND_SHARES)

    def figures(self) -> dict[str, float]:
        """What a simulation predicts, as the run had it; names are those of `Outcome`."""
        asked = len(self.records)
        eligible = [
            record.latency_s if record.outcome is Ending.ANSWERED else np.inf
            for record in self.records
            if record.outcome is not Ending.SUPERSEDED or record.latency_s > ON_TIME_S
        ]
        percentiles = {f"p{percent}_ms": float(np.percentile(eligible, percent, method="higher")) * 1e3 for percent in (50, 90, 99)}
        first = [record.stages_ms.get("first_token", 0.0) for record in self.records if record.detail == "engine"]
        return {
            "asked": asked,
            **percentiles,
            "first_token_ms": float(np.mean(first or [0.0])),
            "slow_share": float(np.mean(np.array(eligible) > ON_TIME_S)),
            "hit_share": sum(map(self.is_hit, self.records)) / asked,
            "cut_share": sum(record.stages_ms.get("total", 0.0) >= BUDGET_S * 1e3 - 2 for record in self.records) / asked,
            "painted_share": sum(record.painted for record in self.records) / asked,
            "superseded_share": sum(record.outcome is Ending.SUPERSEDED for record in self.records) / asked,
        }


def predict(engine: Engine, workload: Workload, typists: Sequence[Typist], duration_s: float) -> dict[str, float]:
    """The mean of some simulations of the same keys."""
    outcomes = [dataclasses.asdict(simulate(engine, workload, typists, duration_s, seed)) for seed in SEEDS]
    return {field.name: float(np.mean([outcome[field.name] for outcome in outcomes])) for field in dataclasses.fields(Outcome)}


@dataclass(frozen=True, slots=True)
class _Fit:
    """What is tried."""

    engine: Engine
    workload: Workload
    run: Run

    def with_vain(self, steps: float) -> _Fit:
        """More of them before the first token."""
        return dataclasses.replace(self, engine=dataclasses.replace(self.engine, vain=steps))

    def with_given(self, tokens: float) -> _Fit:
        """More of them in a step."""
        return dataclasses.replace(self, engine=dataclasses.replace(self.engine, given=tokens))

    def with_answers(self, tokens: float) -> _Fit:
        """Longer answers."""
        return dataclasses.replace(self, workload=dataclasses.replace(self.workload, answer_tokens=tokens))

    def with_least(self, tokens: float) -> _Fit:
        """More needed to show anything."""
        return dataclasses.replace(self, workload=dataclasses.replace(self.workload, least_tokens=tokens))

    def figure(self, name: str) -> float:
        """What the simulation gives."""
        return predict(self.engine, self.workload, self.run.typists, self.run.duration_s)[name]


def calibrate(engine: Engine, workload: Workload, run: Run) -> tuple[Engine, Workload]:
    """Both, as the run shows them. The engine is the one that the run was made with."""
    seen = run.figures()
    fit = _Fit(engine, dataclasses.replace(workload, new_share=run.new_share, around_s=run.around_s), run)
    for _ in range(_ROUNDS):
        fit = _solved(fit.with_vain, _VAIN, lambda trial: trial.figure("first_token_ms") < seen["first_token_ms"])
        fit = _solved(fit.with_given, _GIVEN, lambda trial: trial.figure("cut_share") > seen["cut_share"])
        fit = _solved(fit.with_answers, _ANSWER_TOKENS, lambda trial: trial.figure("hit_share") > seen["hit_share"])
    least = min(map(fit.with_least, range(1, 7)), key=lambda trial: abs(trial.figure("painted_share") - seen["painted_share"]))
    return least.engine, least.workload


def _solved(made: Callable[[float], _Fit], between: tuple[float, float], too_low: Callable[[_Fit], bool]) -> _Fit:
    """Halves the way to where a value stops being too low; the nearer end if it never does."""
    low, high = between
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_low(made(middle)) else (low, middle)
    return made((low + high) / 2)
