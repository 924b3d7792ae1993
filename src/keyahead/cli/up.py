"""`keyahead up`: sets up what is missing, starts everything, shows one completion, and serves until Ctrl-C."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from keyahead.cli.client import DEFAULT_ADDRESS, Client, ServiceError
from keyahead.cli.complete import Place, summary, to_json, with_ghost
from keyahead.cli.options import DEFAULT_MODEL, GrpcPort, MetricsPort, ModelOption, RedisPort, TritonMetricsPort, TritonPort
from keyahead.cli.output import JsonOption, Output, UsageError
from keyahead.engine import adapters, catalogue, fetch
from keyahead.engine.cpu import convert
from keyahead.engine.store import Progress, RichProgress
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.stack import libpython, probes, redis, triton
from keyahead.stack.programs import Parts, Ports, Stack, compose
from keyahead.stack.runfolder import run_folder
from keyahead.stack.supervisor import Supervisor

_PREFIX = """def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def variance(values: list[float]) -> float:
    centre = mean(values)
    return """
_SAMPLE = Place(_PREFIX + "\n", len(_PREFIX))
_SAMPLE_TIMEOUT_S = 10.0
_LOCAL_ONLY = ("KEYAHEAD_GRPC_HOST", "KEYAHEAD_TLS_CERT", "KEYAHEAD_TLS_KEY", "KEYAHEAD_TOKENS_FILE", "KEYAHEAD_ADAPTERS_FILE")


def up(
    model: ModelOption = DEFAULT_MODEL,
    grpc_port: GrpcPort = 50551,
    metrics_port: MetricsPort = 9464,
    triton_port: TritonPort = 8801,
    triton_metrics_port: TritonMetricsPort = 8802,
    redis_port: RedisPort = 0,
    redis_url: Annotated[str | None, typer.Option(envvar="KEYAHEAD_REDIS_URL", help="Use this Redis server and start none.")] = None,
    no_redis: Annotated[bool, typer.Option("--no-redis", help="Cache in memory only.")] = False,
    weights: Annotated[Path | None, typer.Option(help="A local copy of the model's weights (also KEYAHEAD_WEIGHTS).")] = None,
    adapter: Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter of the model, as PEFT saves it, to complete with.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Set up what is missing, start Redis, Triton and the service, and serve until Ctrl-C."""
    _require_local()
    ports = Ports(grpc_port, metrics_port, triton_port, triton_metrics_port, redis_port)
    ports.require_free()
    output, progress = Output(as_json), RichProgress()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts its background jobs with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        rank = adapters.load(adapter, catalogue.get(model)).rank if adapter else 0
        parts = set_up(model, weights, progress, redis_url=redis_url, with_redis=not (no_redis or redis_url), offline=offline)
        parts = dataclasses.replace(parts, adapter=adapter, adapter_rank=rank)
        with run_folder() as run:
            stack = compose(parts, ports, run)
            supervisor = Supervisor(stack.programs, run.path, run, progress.note)
            supervisor.run(lambda: _show(stack, ports, parts, run.path, output))
    except KeyboardInterrupt:
        progress.note("Stopped during the set-up: the same command goes on from here.")
        raise typer.Exit(130) from None  # 128 + SIGINT, as shells have it
    progress.note("Everything is stopped.")


def set_up(name: str, weights: Path | None, progress: Progress, *, redis_url: str | None, with_redis: bool, offline: bool) -> Parts:
    """Make everything ready that a stack needs, downloading what is missing. Raises SetupError."""
    model = catalogue.get(name)
    if redis_url:
        probes.require_redis(redis_url)
    engine = triton.install(progress, offline=offline)
    library = libpython.install(progress, offline=offline)
    server = redis.install(progress, offline=offline) if with_redis else None
    folder = None if weights else convert.find(model)
    if folder is None:
        folder = convert.convert(model, fetch.fetch(model, local=weights, offline=offline, progress=progress), progress)
    return Parts(model, folder, engine, library, server, redis_url)


def _require_local() -> None:
    for variable in _LOCAL_ONLY:
        if os.environ.get(variable):
            raise UsageError(
                f"'keyahead up' serves this machine only, without TLS or tenants: unset {variable}, or run 'keyahead serve' by itself."
            )


def _show(stack: Stack, ports: Ports, parts: Parts, logs: Path, output: Output) -> None:
    """Print where everything is and one completion."""
    addresses = {
        "grpc": stack.service_address,
        "status": f"http://127.0.0.1:{ports.metrics}/",
        "metrics": f"http://127.0.0.1:{ports.metrics}/metrics",
        "triton": f"127.0.0.1:{ports.triton}",
        "triton_metrics": f"http://127.0.0.1:{ports.triton_metrics}/metrics",
        "redis": _without_password(stack.redis_url),
        "logs": str(logs),
    }
    table = Table.grid(padding=(0, 2))
    for each, address in addresses.items():
        table.add_row(each, address)
    output.console.print(f"\nkeyahead serves {parts.model.name}\n", style="bold")
    output.console.print(table)
    sample = _complete_sample(stack.service_address, output)
    elsewhere = "" if stack.service_address == DEFAULT_ADDRESS else f" --address {stack.service_address}"
    output.console.print(f"\nIn another terminal: .venv/bin/keyahead complete FILE:LINE:COL{elsewhere}", soft_wrap=True)
    output.console.print("Ctrl-C stops everything.")
    output.emit({"model": parts.model.name, "addresses": addresses, "sample": sample})


def _complete_sample(address: str, output: Output) -> dict[str, object] | None:
    request = pb.CompleteRequest(
        document=pb.Document(path="sample.py", split=pb.SplitText(prefix=_SAMPLE.prefix, suffix=_SAMPLE.suffix)),
        trigger=pb.TRIGGER_MANUAL,
    )
    try:
        with Client(address) as client:
            answer = client.complete(request, _SAMPLE_TIMEOUT_S)
    except ServiceError as error:
        output.console.print(f"\nThe sample completion failed: {error}")
        return None
    output.console.print("\nA suggestion asked for by hand, which waits for the whole:\n")
    output.console.print(_PREFIX.rpartition("\n")[0], style="dim")
    output.console.print(with_ghost(_SAMPLE, answer.text), soft_wrap=True)
    output.console.print(summary(answer), style="dim")
    return dict(to_json(answer))


def _without_password(url: str | None) -> str:
    if url is None:
        return "none"
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
