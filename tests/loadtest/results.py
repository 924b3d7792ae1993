"""Results of runs as the tests want them, made as a real run's are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from keyahead.cli.loadtest_job import SCHEMA
from keyahead.loadtest import columns, histograms
from keyahead.loadtest import verdict as objectives_file
from keyahead.loadtest.config import Config, Kind, Target
from keyahead.loadtest.cost import Cost
from keyahead.loadtest.judge import Outcome, Record, Typed
from keyahead.loadtest.run import assemble
from keyahead.loadtest.shape import Shape

PATIENT = (Path(objectives_file.__file__).parent / "objectives.toml").read_text().replace("least_share = 0.2", "least_share = 0")
"""Objectives for runs in which hardly anything is useful."""
TARGET = Target(Kind.KEYAHEAD, "127.0.0.1:1", "keyahead")


def result(
    latencies_ms: list[float],
    useful_share: float = 0.6,
    *,
    target: Target = TARGET,
    late_ms: float = 0.5,
    lost: int = 0,
    failed: int = 0,
    **config: Any,
) -> dict[str, Any]:
    """A run of 100 s with these latencies, evenly spread; `lost` requests were planned but never sent."""
    made = Config(target, **{"typists": 2, "duration_s": 100.0, "shape": Shape.STEADY, **config})
    step_s = made.duration_s / max(1, len(latencies_ms))
    records = [_record(number, number * step_s, milliseconds, late_ms, number < failed) for number, milliseconds in enumerate(latencies_ms)]
    typed = [Typed(record.at_s, number % 100 < useful_share * 100, True, False) for number, record in enumerate(records)]
    shard = {
        "records": columns.from_records(records),
        "typed": columns.from_typed(typed),
        "histograms": histograms.encode(histograms.collect(records)),
        "planned": len(records) + lost,
        "cpu_s": 1.0,
        "niceness": 0,
    }
    return assemble(made, [shard])


def whole(*systems: dict[str, Any], capacity: int | None = None, cost: Cost | None = None) -> dict[str, Any]:
    """What `keyahead loadtest` would write of these systems, keyahead first."""
    found = objectives_file.judge(systems[0], objectives_file.load())
    host = {"processor": "some processor", "cores": 2, "memory_bytes": 24 << 30, "system": "Linux", "python": "3.11.7"}
    return {
        "schema": SCHEMA,
        "started_at": "2026-11-24T15:33:08+00:00",
        "host": {**host, "keyahead": "0.1.0", "git_sha": "0123456789abcdef"},
        "verdict": found.to_json(),
        "capacity_typists": capacity,
        "cost": cost and cost.to_json(),
        "systems": list(systems),
    }


def _record(number: int, at_s: float, latency_ms: float, late_ms: float, failed: bool) -> Record:
    outcome = Outcome.FAILED if failed else Outcome.ANSWERED
    done_s = at_s + latency_ms / 1000
    return Record(0, number, at_s, at_s + late_ms / 1000, done_s, outcome, False, "UNAVAILABLE" if failed else "engine", 8, 4, True)


def latencies(count: int, seed: int, scale: float = 1.0) -> list[float]:
    """Log-normal around 60 ms, with slow stretches, as on a real machine."""
    rng = random.Random(seed)
    return [scale * rng.lognormvariate(4.1, 0.35) * (1.5 if (number // 25) % 7 == 3 else 1) for number in range(count)]
