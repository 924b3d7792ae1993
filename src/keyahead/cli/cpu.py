"""`keyahead cpu`: the CPU engine alone, for containers: Triton is got, a model converted, and both served to a service elsewhere."""

from __future__ import annotations

import enum
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

from keyahead.cli.options import DEFAULT_MODEL, ModelOption, TritonMetricsPort, TritonPort
from keyahead.cli.output import CommandError, UsageError
from keyahead.engine import catalogue, fetch, repository
from keyahead.engine.cpu import convert
from keyahead.engine.repository import SETTINGS
from keyahead.engine.store import RichProgress, atomic_folder
from keyahead.engine.tether import tethered
from keyahead.stack import guard, libpython, programs, triton

_POLL_S = 0.2
_STUB = "triton_python"
"""How the name of the process begins in which Triton runs a Python model. A shell or two come and go before it."""


class Action(enum.StrEnum):
    """What to do."""

    INSTALL = "install"
    CONVERT = "convert"
    SERVE = "serve"


def cpu(
    action: Annotated[
        Action,
        typer.Argument(help="install: get Triton into the cache; convert: make the model's folder; serve: run Triton with that model."),
    ],
    model: ModelOption = DEFAULT_MODEL,
    folder: Annotated[Path | None, typer.Option(help="The converted model's folder (convert, serve).")] = None,
    weights: Annotated[Path | None, typer.Option(help="A local copy of the model's weights (convert).")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on (serve).")] = "127.0.0.1",
    port: TritonPort = 8801,
    metrics_port: TritonMetricsPort = 8802,
    threads: Annotated[int, typer.Option(min=0, help="Of the engine; 0: one for each core of the machine (serve).")] = SETTINGS["threads"],
    kv_store_mb: Annotated[int, typer.Option(min=0, help="MB of KV that it keeps in Redis; 0: none (serve).")] = SETTINGS["kv_store_mb"],
    max_lora_rank: Annotated[int, typer.Option(min=0, help="LoRA adapters up to this rank; 0: none (serve).")] = SETTINGS["max_lora_rank"],
    lora_cache_mb: Annotated[int, typer.Option(min=1, help="MB of memory for LoRA adapters (serve).")] = SETTINGS["lora_cache_mb"],
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing.")] = False,
) -> None:
    """Get Triton, convert a model, or serve it for a service that runs elsewhere."""
    if action is Action.INSTALL:
        triton.install(RichProgress(), offline=offline)
        libpython.install(RichProgress(), offline=offline)
    elif folder is None:
        raise UsageError("There is no folder for the converted model: name it with --folder.")
    elif action is Action.CONVERT:
        _convert(catalogue.get(model), folder.absolute(), weights, offline=offline)
    else:
        limits = {"threads": threads, "kv_store_mb": kv_store_mb, "max_lora_rank": max_lora_rank, "lora_cache_mb": lora_cache_mb}
        _serve(catalogue.get(model), folder.absolute(), triton.Ports(port, metrics_port), host, limits)


def _convert(model: catalogue.Model, folder: Path, weights: Path | None, *, offline: bool) -> None:
    """Fill the folder, whole or not at all; what is there stays."""
    progress = RichProgress()
    if folder.exists():
        progress.note(f"{folder} is there already.")
        return
    converted = convert.find(model)
    if converted is None:
        converted = convert.convert(model, fetch.fetch(model, local=weights, offline=offline, progress=progress), progress)
    with atomic_folder(folder) as target:
        shutil.copytree(converted, target, dirs_exist_ok=True)


def _serve(model: catalogue.Model, folder: Path, ports: triton.Ports, host: str, limits: dict[str, int]) -> None:
    server, library = triton.find(), libpython.find()
    if server is None or library is None:
        raise UsageError("Triton is not installed: run 'keyahead cpu install' first.")
    if not folder.is_dir():
        raise UsageError(f"There is no model in {folder}: run 'keyahead cpu convert --folder {folder}' first.")
    # In a container, what is started again has the same process id, and finds what the one before has left.
    prefix = f"keyahead-cpu-{os.getpid()}"
    guard.remove_shared_memory(prefix)
    limits = {"max_context": min(programs.MAX_CONTEXT_TOKENS, model.context_tokens), **limits}
    with tempfile.TemporaryDirectory(prefix="keyahead-") as temporary:
        models = repository.write_cpu(Path(temporary) / "repository", folder, **limits)
        command = triton.command(server, models, ports, prefix, host)
        try:
            _run(command, {**os.environ, **triton.environment(server, library)})
        finally:
            guard.remove_shared_memory(prefix)


def _run(command: list[str], environment: dict[str, str]) -> None:
    """Triton until a signal or its own end; its log is this process's. Raises CommandError unless a signal has ended it.

    Triton goes on, and says that it is well, when the process that runs the engine has died. Then it is ended here. The other way round,
    that process may stay when Triton has ended, for ever, if a client once hung up: it is ended, too.
    """
    signalled = threading.Event()
    with subprocess.Popen(tethered(*command), env=environment) as server:

        def stop(*_: object) -> None:
            signalled.set()
            server.terminate()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        engines: list[psutil.Process] = []
        while server.poll() is None:
            engines = engines or _engines(server.pid)
            if not signalled.is_set() and any(not each.is_running() or each.status() == psutil.STATUS_ZOMBIE for each in engines):
                server.kill()
                raise CommandError("The engine has ended, and Triton with it: the log says why.")
            with suppress(subprocess.TimeoutExpired):
                server.wait(_POLL_S)
        for each in engines:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    if not signalled.is_set():
        raise CommandError(f"Triton ended with {server.returncode}: the log says why.")


def _engines(server: int) -> list[psutil.Process]:
    """The processes that run the engine; none while Triton has not come so far, or when it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [each for each in psutil.Process(server).children() if each.name().startswith(_STUB)]
    return []
