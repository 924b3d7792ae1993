"""`keyahead doctor`: checks this machine and the set-up."""

from __future__ import annotations

import typer
from rich.table import Column, Table
from rich.text import Text

from keyahead.cli.options import DEFAULT_MODEL, GrpcPort, MetricsPort, ModelOption, RedisPort, TritonMetricsPort, TritonPort
from keyahead.cli.output import FAILED, JsonOption, Output
from keyahead.engine import catalogue
from keyahead.stack.checks import Level, checks
from keyahead.stack.programs import Ports

_STYLES = {Level.OK: "green", Level.NOTE: "yellow", Level.FAIL: "red"}


def doctor(
    model: ModelOption = DEFAULT_MODEL,
    grpc_port: GrpcPort = 50551,
    metrics_port: MetricsPort = 9464,
    triton_port: TritonPort = 8801,
    triton_metrics_port: TritonMetricsPort = 8802,
    redis_port: RedisPort = 0,
    as_json: JsonOption = False,
) -> None:
    """Check this machine and the set-up; the exit code is 1 if something has to be mended."""
    output = Output(as_json)
    ports = Ports(grpc_port, metrics_port, triton_port, triton_metrics_port, redis_port)
    findings = {name: check() for name, check in checks(catalogue.get(model), ports).items()}
    table = Table.grid("", "", Column(overflow="fold"), padding=(0, 2))
    for name, finding in findings.items():
        table.add_row(Text(finding.level, _STYLES[finding.level]), name, finding.detail)
    output.console.print(table)
    healthy = all(finding.level is not Level.FAIL for finding in findings.values())
    output.emit({"healthy": healthy, "checks": {name: {"level": each.level, "detail": each.detail} for name, each in findings.items()}})
    if not healthy:
        raise typer.Exit(FAILED)
