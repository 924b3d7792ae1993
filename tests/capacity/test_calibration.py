"""From a load test's result to a workload and an engine."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest

from keyahead.capacity import calibration
from keyahead.capacity.calibration import CalibrationError, Run, calibrate, predict
from keyahead.capacity.steps import MeasuredSteps
from keyahead.capacity.typists import draw
from keyahead.loadtest.judge import Outcome, Record
from keyahead.loadtest.shape import Shape
from tests.capacity.samples import WORKLOAD, engine
from tests.loadtest.results import result, whole

STEPS = MeasuredSteps((1.0, 8.0, 64.0), (0.015, 0.018, 0.060))


def record(number: int, source: str, latency_ms: float = 4.0, typist: int = 0) -> Record:
    """A request of a typist, every 250 ms; `superseded` is no source but an outcome."""
    at_s, outcome = number / 4, Outcome.SUPERSEDED if source == "superseded" else Outcome.ANSWERED
    stages = {"total": latency_ms - 3}
    detail = "" if outcome is Outcome.SUPERSEDED else source
    return Record(typist, number, at_s, at_s, at_s + latency_ms / 1e3, outcome, False, detail, 8, 4, True, stages)


def run(*sources: str) -> Run:
    """One typist's requests."""
    return Run(tuple(record(number, source, 163.0 if source == "engine" else 4.0) for number, source in enumerate(sources)), 10.0)


@pytest.mark.parametrize(
    ("sources", "began"),
    [
        (("engine", "memory", "memory", "redis"), 1),
        (("memory", "superseded", "in_flight", "memory"), 1),  # it began what the next one joined
        (("engine", "in_flight", "superseded", "in_flight"), 1),  # it had joined, too
        (("superseded", "superseded", "in_flight", "engine"), 2),
    ],
)
def test_requests_that_began_anew(sources: tuple[str, ...], began: int) -> None:
    """All that the engine answered, and those superseded ones that came behind a hit, or first."""
    assert run(*sources).new_share == began / 4


def test_the_figures_of_a_run() -> None:
    """In the simulation's terms; a superseded request counts neither for nor against the promise."""
    figures = run("engine", "memory", "superseded", "in_flight", "memory").figures()
    assert figures["asked"] == 5
    assert (figures["hit_share"], figures["cut_share"], figures["superseded_share"]) == (0.4, 0.2, 0.2)
    assert figures["p50_ms"] == pytest.approx(4.0)
    assert figures["p99_ms"] == pytest.approx(163.0)


def test_a_run_gives_its_keys_back() -> None:
    """Each typist's, in order."""
    both = Run((record(1, "memory"), record(0, "engine"), record(3, "memory", typist=1)), 5.0)
    assert [[key.at_s for key in person] for person in both.typists] == [[0.0, 0.25], [0.75]]


def test_what_cannot_be_calibrated_with_is_refused() -> None:
    """What is no result, a ramp, and a run without enough hits, each with the cure."""
    with pytest.raises(CalibrationError, match="name one"):
        Run.of({"systems": []})
    with pytest.raises(CalibrationError, match="--shape steady"):
        Run.of(whole(result([50.0] * 100, shape=Shape.RAMP)))
    with pytest.raises(CalibrationError, match="--duration"):
        Run.of(whole(result([50.0] * 100)))


@dataclasses.dataclass(frozen=True)
class _Told:
    """A run whose figures are those that an engine and a workload, both known, give."""

    seen: dict[str, float]
    new_share: float = WORKLOAD.new_share
    around_s: tuple[tuple[float, float], ...] = tuple(WORKLOAD.around_s)
    duration_s: float = 150.0

    @property
    def typists(self) -> list[tuple[object, ...]]:
        return draw(3, self.duration_s, WORKLOAD.places_per_request, 7)  # type: ignore[return-value]

    def figures(self) -> dict[str, float]:
        return self.seen


def test_a_fit_finds_what_behaves_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine with steps in vain, and answers of another length, are found: first tokens, cuts, hits and what is painted agree, and so
    does what was not fitted.
    """
    monkeypatch.setattr(calibration, "SEEDS", range(4))  # quick, and near enough
    real = engine(steps=STEPS, slowdown=2.0, vain=1.5, given=1.4)
    spoken = dataclasses.replace(WORKLOAD, answer_tokens=16.0, least_tokens=4.0)
    people = draw(3, 150.0, WORKLOAD.places_per_request, 7)
    seen = predict(real, spoken, people, 150.0)
    found, workload = calibrate(engine(steps=STEPS, slowdown=2.0), WORKLOAD, cast("Run", _Told(seen)))
    again = predict(found, workload, people, 150.0)
    for name in ("hit_share", "cut_share", "painted_share", "busy_share"):
        assert again[name] == pytest.approx(seen[name], abs=0.06), name
    assert again["p90_ms"] == pytest.approx(seen["p90_ms"], rel=0.1)
