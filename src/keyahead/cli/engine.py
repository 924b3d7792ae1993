"""`keyahead engine`: plans an engine for a GPU, builds it in NVIDIA's container, checks it, and serves it."""

from __future__ import annotations

import enum
import json
import shlex
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from keyahead.cli.output import FAILED, CommandError, JsonOption, Output, UsageError
from keyahead.engine.adapters import MODULES
from keyahead.engine.store import RichProgress, cache_dir
from keyahead.engine.trtllm import build as building
from keyahead.engine.trtllm import image, job, roofline
from keyahead.engine.trtllm.facts import BRIEF_COMMAND, MOUNTS
from keyahead.engine.trtllm.image import Image
from keyahead.engine.trtllm.plan import CHECKPOINT_DIR, Plan
from keyahead.engine.trtllm.precision import KvCache, Precision
from keyahead.engine.trtllm.proposal import Limits, Lora, Runtime
from keyahead.stack import docker, preflight

_LIMITS = Limits()
_POLL_S = 0.2


class Action(enum.StrEnum):
    """What to do."""

    PLAN = "plan"
    BUILD = "build"
    PREPARE = "prepare"
    CHECK = "check"
    PREFLIGHT = "preflight"
    SERVE = "serve"


def engine(
    action: Annotated[
        Action,
        typer.Argument(
            help="plan: show it; build: run it; preflight: check what was built; serve: run Triton with it; "
            "prepare: fill --work for a build where there is no Docker; check: judge what was found and made there."
        ),
    ],
    model: Annotated[str, typer.Option(help="A size of Qwen2.5-Coder, such as qwen2.5-coder-1.5b.")] = "qwen2.5-coder-1.5b",
    gpu: Annotated[str, typer.Option(help="l4, a10, a100 or h100.")] = "l4",
    precision: Annotated[Precision, typer.Option(help="Format of the weights.")] = Precision.FP8,
    runtime: Annotated[Runtime, typer.Option(help="A TensorRT engine, or PyTorch by the LLM API.")] = Runtime.TENSORRT,
    kv_cache: Annotated[KvCache, typer.Option(help="Format of keys and values.")] = KvCache.MODEL,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Requests in one step.")] = _LIMITS.max_batch_size,
    max_input: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = _LIMITS.max_input,
    max_output: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = _LIMITS.max_output,
    max_drafts: Annotated[
        int | None, typer.Option(min=0, help="The longest draft: of the service, else 24; with llm-api, the engine's own, else 8.")
    ] = None,
    max_num_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one step.")] = _LIMITS.max_num_tokens,
    lora_rank: Annotated[int, typer.Option(min=0, help="The highest rank of the LoRA adapters to serve; 0: none.")] = 0,
    lora_module: Annotated[
        list[str] | None, typer.Option(help="What adapters change, such as q_proj; may be repeated. All seven if none is given.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME[=VALUE]", help="An option of trtllm-build; may be repeated.")] = None,
    parameter: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A parameter of the backend; may be repeated.")] = None,
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="The model's licence allows my use (3B).")] = False,
    image_tag: Annotated[str, typer.Option(help=f"Tag of {image.REPOSITORY}.")] = image.TAG,
    image_digest: Annotated[str, typer.Option(envvar="KEYAHEAD_ENGINE_IMAGE_DIGEST", help="sha256:… of the image, to pin it.")] = "",
    checkpoint: Annotated[Path | None, typer.Option(help="The Hugging Face checkpoint, a folder (build, prepare).")] = None,
    code: Annotated[
        Path | None, typer.Option(help="Code to calibrate with, a folder; else Python's standard library (build, prepare).")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Where engines lie, else the cache folder; of prepare, the one engine's own.")] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Loopback port of Triton, its metrics on the next (preflight, serve).")
    ] = 8801,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and run nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Plan, build or check a TensorRT-LLM engine for a GPU."""
    output, place = Output(as_json), (work or cache_dir() / "engines").absolute()
    if action is Action.CHECK:
        _report(preflight.check(place, RichProgress()), output)
        return
    if runtime is Runtime.LLM_API and (option or parameter):
        raise UsageError("--option and --parameter are for a TensorRT engine: leave them out with --runtime llm-api.")
    if lora_module and not lora_rank:
        raise UsageError("--lora-module is of adapters, and there are none: give --lora-rank too, or leave it out.")
    drafts = runtime.default_drafts if max_drafts is None else max_drafts
    plan = Plan.make(
        model,
        gpu,
        precision,
        Limits(max_batch_size, max_input, max_output, drafts, max_num_tokens),
        kv_cache=kv_cache,
        licence_accepted=accept_licence,
        lora=Lora(lora_rank, tuple(lora_module or MODULES)) if lora_rank else None,
        build=_pairs(option),
        serving=_pairs(parameter),
        image=Image(image_tag, image_digest),
        runtime=runtime,
    )
    if action is Action.PLAN:
        _show(plan, output)
        output.emit(plan.to_json())
    elif action in {Action.BUILD, Action.PREPARE}:
        if checkpoint is None:
            raise UsageError("There is no checkpoint to build from: name the model's Hugging Face folder with --checkpoint.")
        if action is Action.BUILD:
            _build(plan, checkpoint.absolute(), place, code, output, dry_run=dry_run)
        else:
            _prepare(plan, checkpoint.absolute(), place, code, output, dry_run=dry_run)
    elif action is Action.PREFLIGHT:
        _preflight(plan, place, port, output, dry_run=dry_run)
    else:
        _serve(plan, place, port, output, dry_run=dry_run)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = (text.partition("=") for text in texts or [])
    return {name.removeprefix("--"): value for name, _, value in pairs}


def _show(plan: Plan, output: Output) -> None:
    memory, latency = plan.memory, plan.latency
    table = Table.grid(padding=(0, 2))
    adapters = f"{plan.proposal.adapter_bytes / 1e6:.0f} MB each, of {memory.adapters / 1e6:.0f} MB" if memory.adapters else "none"
    for name, text in {
        "image": plan.image.reference,
        "weights": f"{memory.weights / 1e9:.2f} GB",
        "buffers": f"{memory.activations / 1e9:.2f} GB, a rough estimate",
        "adapters": adapters,
        "KV cache": f"{memory.kv_per_token} bytes a token, {memory.kv_tokens} tokens",
        "prefill": f"{latency.prefill * 1e3:.1f} ms (roof {latency.prefill_roof * 1e3:.1f})",
        "step": f"{latency.step * 1e3:.1f} ms (roof {latency.step_roof * 1e3:.1f}), verifying drafts {latency.verify * 1e3:.1f} ms",
        "request": f"{latency.total * 1e3:.0f} ms (roof {latency.total_roof * 1e3:.0f})",
    }.items():
        table.add_row(name, text)
    output.console.print(f"{plan.name}\n", style="bold")
    output.console.print(table)
    for line in (*(f"Assumed: {each}." for each in roofline.ASSUMPTIONS), *(f"Note: {each}" for each in plan.notes)):
        output.console.print(line, style="dim")
    output.console.print(f"For the service: KEYAHEAD_MAX_DRAFTS={plan.service_drafts}", style="dim")
    if arguments := plan.llm_arguments(CHECKPOINT_DIR):
        output.console.print(f"For the LLM API: {json.dumps(arguments)}", style="dim", soft_wrap=True)
    _print_commands([list(command) for command in (plan.checkpoint_command, plan.build_command) if command], output)


def _print_commands(commands: list[list[str]], output: Output) -> None:
    for command in commands:
        output.console.print(shlex.join(command), soft_wrap=True)


def _build(plan: Plan, checkpoint: Path, work: Path, code: Path | None, output: Output, *, dry_run: bool) -> None:
    folder = work / plan.name
    commands = building.commands(plan, checkpoint, folder)
    if dry_run:
        _print_commands(commands, output)
    else:
        building.build(plan, checkpoint, work, docker.run, RichProgress(), code=code)
        output.console.print(f"The engine is in {folder}.")
    output.emit({"folder": str(folder), "built": not dry_run, "commands": commands})


def _prepare(plan: Plan, checkpoint: Path, folder: Path, code: Path | None, output: Output, *, dry_run: bool) -> None:
    commands = job.commands(plan, checkpoint, folder)
    if dry_run:
        _print_commands(commands, output)
    else:
        job.prepare(plan, checkpoint, folder, code)
    output.emit({"folder": str(folder), "prepared": not dry_run, "commands": commands})


def _preflight(plan: Plan, work: Path, port: int, output: Output, *, dry_run: bool) -> None:
    folder = work / plan.name
    if dry_run:
        commands = preflight.commands(plan, folder, port)
        _print_commands(commands, output)
        output.emit({"folder": str(folder), "commands": commands})
        return
    _end_as_by_ctrl_c()
    _report(preflight.preflight(plan, work, port, RichProgress()), output)


def _end_as_by_ctrl_c() -> None:
    """Otherwise the container would outlive a closed terminal, and keep the GPU."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)


def _report(report: preflight.Report, output: Output) -> None:
    output.console.print(report.to_text())
    output.emit(report.to_json())
    if not report.passed:
        raise typer.Exit(FAILED)


def _serve(plan: Plan, work: Path, port: int, output: Output, *, dry_run: bool) -> None:
    folder = work / plan.name
    if dry_run:
        commands = [plan.image.run(BRIEF_COMMAND, MOUNTS), docker.serving_command(plan, folder, port, docker.CONTAINER)]
        _print_commands(commands, output)
        output.emit({"folder": str(folder), "commands": commands})
        return
    preflight.require_servable(plan, folder, RichProgress())
    _end_as_by_ctrl_c()
    try:
        with docker.serving(plan, folder, port) as serving:
            output.console.print(f"Triton serves {plan.name} at {serving.address}. Ctrl-C stops it.")
            output.emit({"address": serving.address, "tokenizer": str(folder / "tokenizer"), "max_drafts": plan.service_drafts})
            # A signal that comes just before a wait without end would not be noticed.
            while (code := serving.process.poll()) is None:
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return
    raise CommandError(f"Triton ended with {code}: {folder / 'triton.log'} says why.")
