"""`keyahead capacity`: what it takes to serve so many developers, and what it costs. docs/capacity.md tells how it is found."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from keyahead.capacity import data
from keyahead.capacity.bill import SERVICE_SESSIONS, Demand
from keyahead.capacity.calibration import CalibrationError, Run, calibrate
from keyahead.capacity.study import CONCURRENCY, HEADROOM, NotCarried, Study, study
from keyahead.capacity.workload import Engine, Workload
from keyahead.cli.output import CommandError, JsonOption, Output, UsageError
from keyahead.engine.trtllm.precision import Precision

_GPU_MODEL = "qwen2.5-coder-1.5b"


class Hardware(enum.StrEnum):
    """What engines run on."""

    CPU = data.CPU
    L4 = "l4"
    A10 = "a10"
    A100 = "a100"
    H100 = "h100"


def capacity(
    developers: Annotated[int, typer.Option(min=1, help="Who may use it, whether or not they type just now.")],
    gpu: Annotated[Hardware, typer.Option(help="What the engines run on.")] = Hardware.L4,
    model: Annotated[
        str | None, typer.Option(help=f"A size of Qwen2.5-Coder; by default {_GPU_MODEL}, and {data.CPU_MODEL} for cpu.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Format of a GPU's weights; by default its 8-bit one.")] = None,
    concurrency: Annotated[float, typer.Option(help="Share of the developers who type at the busiest moment, 0 to 1.")] = CONCURRENCY,
    hit_share: Annotated[
        float | None, typer.Option(help="Share of the requests that find a suggestion that is there or being decoded, 0 to 1.")
    ] = None,
    headroom: Annotated[float, typer.Option(help="Part of what a replica carries that is left free, 0 to 0.9.")] = HEADROOM,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibrate", help="A result of 'keyahead loadtest --output' with the CPU engine, to fit it and the typists to."),
    ] = None,
    price_engine_hour: Annotated[float | None, typer.Option(min=0, help="Of one replica of the engine, in dollars.")] = None,
    price_core_hour: Annotated[float | None, typer.Option(min=0, help="Of one core, in dollars.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell what it takes to serve so many developers: replicas, Redis, network and cost, and the latency to expect.

    Found by simulation, calibrated with measured times on a processor; on a GPU nothing has been measured.
    """
    output = Output(as_json)
    _require("--concurrency", concurrency, above=0, most=1)
    _require("--headroom", headroom, least=0, most=0.9)
    demand = Demand(developers, developers * concurrency, headroom)
    engine, workload = _engine(gpu, model, precision), data.workload()
    with output.console.status("simulating") as status:
        if calibration is not None:
            status.update("calibrating")
            fitted, workload = _calibrated(workload, calibration)
            engine = fitted if gpu is Hardware.CPU else engine
        if hit_share is not None:
            _require("--hit-share", hit_share, least=0, most=1)
            workload = workload.with_hits(hit_share)
        try:
            found = study(demand, engine, workload, data.prices(gpu, price_engine_hour, price_core_hour), seed, status.update)
        except NotCarried as error:
            raise CommandError(str(error)) from None
    _show(found, output)
    output.emit(found.to_json())


def _require(option: str, value: float, *, most: float, least: float | None = None, above: float | None = None) -> None:
    """Raise UsageError unless a share is where it must be."""
    if value > most or (least is not None and value < least) or (above is not None and value <= above):
        lowest = f"from {least}" if above is None else f"above {above}"
        raise UsageError(f"{option} is {value:g}: give a share {lowest}, at most {most}.")


def _engine(gpu: Hardware, model: str | None, precision: Precision | None) -> Engine:
    if gpu is not Hardware.CPU:
        return data.gpu_engine(model or _GPU_MODEL, gpu, precision)
    if model not in {None, data.CPU_MODEL}:
        raise UsageError(f"--model {model} has not been measured on a processor: leave it out for {data.CPU_MODEL}, or choose a --gpu.")
    if precision is not None:
        raise UsageError("--precision is for GPUs: leave it out with --gpu cpu, whose engine was measured in INT8.")
    return data.cpu_engine()


def _calibrated(workload: Workload, path: Path) -> tuple[Engine, Workload]:
    """The CPU engine, which the load test has asked, and the typists."""
    try:
        return calibrate(data.cpu_engine(), workload, Run.of(json.loads(path.read_text().splitlines()[-1])))
    except OSError as error:
        raise UsageError(f"--calibrate {path} cannot be read ({error.strerror}): name a result of 'keyahead loadtest --output'.") from None
    except ValueError:
        raise UsageError(f"--calibrate {path} is no JSON: name a result of 'keyahead loadtest --output'.") from None
    except CalibrationError as error:
        raise UsageError(f"--calibrate {path}: {error}") from None


def _show(found: Study, output: Output) -> None:
    bill, planned = found.bill, found.planned
    table = Table.grid(padding=(0, 2))
    rows = {
        "load": f"{bill.requests_per_s:,.0f} requests/s of {found.demand.active:,.0f} who type",
        "engines": f"{bill.engines:,}, one of them spare; {bill.typists_per_engine:,.1f} of {found.carried.typists:,} typists each, "
        f"beyond that: {found.carried.limit}",
        "latency": f"p50 {planned.p50_ms:.0f} ms, p99 {planned.p99_ms:.0f} ms; {planned.cut_share:.1%} cut at the budget "
        f"(alone {found.carried.alone.cut_share:.1%}), {planned.hit_share:.0%} from the cache",
        "engine": f"{planned.batch:.1f} answers in a step, p99 of the wait for a place {planned.queue_p99_ms:.0f} ms; "
        f"busy {planned.busy_share:.0%}, with work ahead of need",
        "services": f"{bill.services:,}, {bill.sessions_per_service:,} sessions each if all editors are connected"
        + (f" (raise KEYAHEAD_MAX_SESSIONS from {SERVICE_SESSIONS})" if bill.sessions_per_service > SERVICE_SESSIONS else ""),
        "Envoy": f"{bill.envoys:,}",
        "Redis": f"{bill.redis_bytes / 1e9:.2f} GB, with KV {(bill.redis_bytes + bill.redis_kv_bytes) / 1e9:.2f}; "
        f"{bill.redis_commands_per_s:,.0f} commands/s: {bill.redis_shards:,} server(s)",
        "network": f"{bill.network_unary_bytes_per_s * 8 / 1e6:,.1f} Mbit/s with whole documents, "
        f"{bill.network_session_bytes_per_s * 8 / 1e6:,.1f} with sessions",
        "cost": f"{bill.cost:,.0f} $ a month: engines {bill.engines_cost:,.0f}, services {bill.services_cost:,.0f}, "
        f"Redis {bill.redis_cost:,.0f}",
        "a developer": f"{found.cost_per_developer:,.2f} $ a month; "
        + ", ".join(f"{name} {seat.price:.0f} $" for name, seat in found.prices.seats.items()),
    }
    for name, text in rows.items():
        table.add_row(name, text)
    output.console.print(f"{found.demand.developers:,} developers on {found.engine.name}\n", style="bold")
    output.console.print(table)
    for line in found.assumptions:
        output.console.print(f"Assumed: {line}.", style="dim")
