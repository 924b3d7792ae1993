"""`keyahead eval`: scores a running service on infilling tasks, by equality and by running their tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from keyahead.cli.client import DEFAULT_ADDRESS, AddressOption, Client
from keyahead.cli.complete import to_json
from keyahead.cli.infilling import Score, Task, TaskError, is_exact, load, sample, summarize, useful_characters
from keyahead.cli.output import CommandError, JsonOption, Output, UsageError
from keyahead.cli.sandbox import Sandbox, SandboxError
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb

_TIMEOUT_S = 60.0
"""Long enough for the longest answer on two cores (256 tokens at 30 ms, and the prompt), so that quality is measured and not speed."""


def evaluate(
    tasks: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Tasks in the format of HumanEval-Infilling.")],
    address: AddressOption = DEFAULT_ADDRESS,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many tasks, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=8, help="Tasks at a time; more than one distorts the latencies.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Score the service on infilling tasks: exact match, and pass@1 by running each task's test in a sandbox.

    A failed call ends the evaluation, as a figure over some of the tasks would be a wrong one.
    """
    output = Output(as_json)
    try:
        chosen = sample(load(tasks), limit, seed)
        sandbox = Sandbox.find()
    except (TaskError, SandboxError) as error:
        raise UsageError(str(error)) from None
    if not sandbox.isolated:
        output.console.print(
            "Namespaces are not allowed here: the programs under test can reach the network and readable files.", style="yellow"
        )
    with Client(address) as client:
        scores = _score_all(chosen, concurrency, output.console, lambda task: _score(client, sandbox, task))
    kinds = sorted({score.kind for score in scores})
    by_kind = {kind: summarize([score for score in scores if score.kind == kind]) for kind in kinds}
    total = summarize(scores)
    output.console.print(_table({**by_kind, "all": total} if len(kinds) > 1 else by_kind))
    output.emit({**total, "by_kind": by_kind, "sandbox_isolated": sandbox.isolated})


def _score_all(tasks: list[Task], concurrency: int, console: Console, score: Callable[[Task], Score]) -> list[Score]:
    """The scores in the order of the tasks, with a progress bar; the first failure ends the rest."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pool = ThreadPoolExecutor(concurrency)
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            return list(progress.track(pool.map(score, tasks), total=len(tasks), description="Tasks"))
    except SandboxError as error:
        raise CommandError(str(error)) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Calls still under way end when the client closes.


def _score(client: Client, sandbox: Sandbox, task: Task) -> Score:
    """Asks for one task's hole and runs its test."""
    started = time.perf_counter()
    answer = client.complete(request_of(task), _TIMEOUT_S)
    latency_ms = (time.perf_counter() - started) * 1000
    return Score(
        kind=task.kind,
        exact=is_exact(task, answer.text),
        useful_characters=useful_characters(task, answer.text),
        verdict=sandbox.run(task.program(answer.text)),
        latency_ms=latency_ms,
        source=to_json(answer)["source"],
    )


def request_of(task: Task) -> pb.CompleteRequest:
    """What an editor with the cursor in the task's hole asks for."""
    return pb.CompleteRequest(
        document=pb.Document(language="python", split=pb.SplitText(prefix=task.prompt, suffix=task.suffix)),
        mode=pb.MODE_SINGLE_LINE if task.single_line else pb.MODE_BLOCK,
        trigger=pb.TRIGGER_MANUAL,
    )


def _table(summaries: dict[str, dict[str, Any]]) -> Table:
    table = Table("kind", "tasks", "exact match", "pass@1", "useful characters", "p50 ms", "p99 ms")
    for kind, each in summaries.items():
        shares = (f"{each['exact_match']:.1%}", f"{each['pass_at_1']:.1%}", f"{each['useful_characters']:.1f}")
        table.add_row(kind, str(each["tasks"]), *shares, *(f"{value:.0f}" for value in each["latency_ms"].values()))
    return table
