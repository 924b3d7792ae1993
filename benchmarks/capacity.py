"""The capacity model against this machine: what a step takes, a load test of two sizes, and what the model says of both.

It is calibrated with the first run. Of the second it is given the moments of the keys, and predicts the rest. Takes some 5 minutes; --part
measures one thing in a file of its own, and --parts compares what such files hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from common import bare_step, interleaved, machine, report, running_engine
from rich.table import Table
from running import KEYAHEAD, Stack, counters, running_stack

from keyahead.capacity import data
from keyahead.capacity.calibration import BEGIN_S, Run, calibrate, predict
from keyahead.capacity.steps import MeasuredSteps
from keyahead.engine.cpu.runner import timed

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Tokens of a step."""
PAST_TOKENS = 500
ROUNDS = 9
PARTS = {"few": (3, 120), "many": (9, 80)}
"""Typists and seconds: the first is calibrated with, the second predicted."""
WARM_S = 5.0
"""A stack's first seconds are not measured."""
FIGURES = (
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "first_token_ms",
    "slow_share",
    "hit_share",
    "cut_share",
    "painted_share",
    "superseded_share",
    "busy_share",
)
ENGINE = "keyahead_engine_"


def step_times() -> dict[str, Any]:
    """Median milliseconds of a step of each size, alone on the machine."""
    with running_engine() as engine:
        measures = {size: partial(timed, engine.runner, bare_step(engine.code(size, 0), PAST_TOKENS)) for size in SIZES}
        interleaved(1, measures)  # The first run of a size makes its kernels.
        samples = interleaved(ROUNDS, measures)
    return {"tokens": list(SIZES), "milliseconds": [round(statistics.median(samples[size]), 1) for size in SIZES]}


def readings(stack: Stack) -> dict[str, float]:
    """Counters of both pages, and the processor time of the engine's process."""
    engines = [
        process
        for process in psutil.Process(stack.service.pid).children(recursive=True)
        if "triton_python_backend_stub" in " ".join(process.cmdline())
    ]
    cpu_s = sum(sum(process.cpu_times()[:2]) for process in engines)
    return {**counters(stack.triton_metrics), **counters(stack.service.metrics), "engine_cpu_s": cpu_s}


def load_test(typists: int, seconds: int) -> dict[str, Any]:
    """A load test against a stack of its own, and how much all counters have grown."""
    with running_stack() as stack, tempfile.TemporaryDirectory() as folder:
        time.sleep(WARM_S)
        output = Path(folder) / "result.json"
        command = [KEYAHEAD, "loadtest", "--address", stack.service.address, "--typists", str(typists), "--duration", str(seconds)]
        before = readings(stack)
        subprocess.run([*command, "--output", str(output)], check=False, stdout=subprocess.DEVNULL, timeout=seconds + 120)
        time.sleep(2)  # The engine's page is a second behind.
        after = readings(stack)
        return {"result": json.loads(output.read_text()), "grown": {name: value - before.get(name, 0.0) for name, value in after.items()}}


def engine_figures(grown: dict[str, float]) -> dict[str, float]:
    """What `measured.toml` has of the engine and the service, by their counters."""

    def total(name: str) -> float:
        return sum(value for key, value in grown.items() if key.startswith(name))

    kind = ENGINE + 'tokens_total{kind="'
    output, accepted, drafted = (total(f'{kind}{name}"') for name in ("output", "accepted_draft", "draft"))
    steps = output - accepted  # A step gives an answer one token of the model's own, and the drafts accepted before it.
    return {
        "step_ms": 1e3 * grown["engine_cpu_s"] / data.CPU_CORES / total(ENGINE + "steps_total"),
        "step_tokens": total(ENGINE + "class_tokens_total") / total(ENGINE + "steps_total"),
        "computed": 1 + drafted / steps,
        "calls": min(1.0, total(ENGINE + "finished_total") / steps),
    }


def service_ms(few: dict[str, Any], many: dict[str, Any]) -> float:
    """Processor time of the service a request: the line through both runs, whose other end is what it takes without any."""
    rows = []
    for part in (few, many):
        grown, seconds = part["grown"], float(part["result"]["systems"][0]["config"]["duration_s"])
        calls = sum(value for key, value in grown.items() if key.startswith("keyahead_request_seconds_count"))
        rows.append((grown["process_cpu_seconds_total"], seconds, calls))
    (cpu, time_s, calls), (more_cpu, more_time_s, more_calls) = rows
    return float(1e3 * (more_cpu * time_s - cpu * more_time_s) / (more_calls * time_s - calls * more_time_s))


def busy_share(part: dict[str, Any]) -> float:
    """Of the run, the time for which the engine's process kept all cores that it has."""
    run = Run.of(part["result"])
    return float(part["grown"]["engine_cpu_s"] / ((run.duration_s + BEGIN_S) * data.CPU_CORES))


def compare(steps: dict[str, Any], few: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    """What was measured and what the model says, for both sizes; with what the calibration found."""
    known = engine_figures(few["grown"])
    measured = MeasuredSteps(tuple(steps["tokens"]), tuple(each / 1e3 for each in steps["milliseconds"]))
    engine = dataclasses.replace(data.cpu_engine(), steps=measured, computed=known["computed"], calls=known["calls"])
    engine = dataclasses.replace(engine, slowdown=known["step_ms"] / 1e3 / measured(known["step_tokens"], 1))
    engine, workload = calibrate(engine, data.workload(), Run.of(few["result"]))
    found: dict[str, Any] = {"engine": known, "steps": steps, "workload": dataclasses.asdict(workload)}
    found["cpu_ms_per_request"] = service_ms(few, many)
    found["fitted"] = {name: getattr(engine, name) for name in ("slowdown", "vain", "given", "computed", "calls")}
    for name, part in (("few", few), ("many", many)):
        run = Run.of(part["result"])
        seen = {**run.figures(), "busy_share": busy_share(part)}
        found[name] = {"typists": len(run.typists), "measured": seen, "model": predict(engine, workload, run.typists, run.duration_s)}
    return found


def shown(found: dict[str, Any]) -> Table:
    """One row for each figure."""
    few, many = found["few"], found["many"]
    heads = [
        f"{part['typists']} typists, {what}" for part, what in ((few, "measured"), (few, "model"), (many, "measured"), (many, "predicted"))
    ]
    table = Table(
        "figure", *heads, title=f"capacity: {few['measured']['asked']} and {many['measured']['asked']} requests", title_justify="left"
    )
    for name in FIGURES:
        values = (few["measured"][name], few["model"][name], many["measured"][name], many["model"][name])
        table.add_row(name, *(f"{value:.1f}" if name.endswith("_ms") else f"{value:.1%}" for value in values))
    return table


def main() -> None:
    """Measure what is asked for, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FILE"), help="measure only steps, few or many, into a file")
    parser.add_argument("--parts", nargs=3, metavar=("STEPS", "FEW", "MANY"), help="compare what such files hold")
    options = parser.parse_args()
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "steps": step_times,
        **{name: partial(load_test, *size) for name, size in PARTS.items()},
    }
    if options.part:
        Path(options.part[1]).write_text(json.dumps(measures[options.part[0]]()))
        return
    parts = (
        [json.loads(Path(path).read_text()) for path in options.parts] if options.parts else [measure() for measure in measures.values()]
    )
    found = compare(*parts)
    report(shown(found), {**found, "machine": machine()}, as_json=options.json)


if __name__ == "__main__":
    main()
