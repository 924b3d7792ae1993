"""The options of a stack that more than one command has: its model, and the ports it uses."""

from __future__ import annotations

from typing import Annotated

import typer


def _port(name: str, summary: str, *, lowest: int = 1) -> typer.models.OptionInfo:
    variable = "KEYAHEAD_" + name.removeprefix("--").replace("-", "_").upper()
    option: typer.models.OptionInfo = typer.Option(name, envvar=variable, min=lowest, max=65535, help=summary)
    return option


GrpcPort = Annotated[int, _port("--grpc-port", "Where the service listens.")]
MetricsPort = Annotated[int, _port("--metrics-port", "Where the service shows its metrics.")]
TritonPort = Annotated[int, _port("--triton-port", "Where Triton listens.")]
TritonMetricsPort = Annotated[int, _port("--triton-metrics-port", "Where Triton shows its metrics.")]
RedisPort = Annotated[int, _port("--redis-port", "Where Redis listens beside its socket; 0: nowhere.", lowest=0)]

DEFAULT_MODEL = "qwen2.5-coder-0.5b"
ModelOption = Annotated[str, typer.Option("--model", envvar="KEYAHEAD_MODEL_NAME", help="A model of the catalogue.")]
