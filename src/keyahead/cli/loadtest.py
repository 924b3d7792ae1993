"""`keyahead loadtest`: simulated people type against a service, and each answer is judged. docs/loadtest.md tells how and why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from keyahead.cli import loadtest_checks as checks
from keyahead.cli import loadtest_view as view
from keyahead.cli.baselines import HELP as BASELINE_HELP
from keyahead.cli.baselines import parse
from keyahead.cli.loadtest_job import SCHEMA, Job, execute, run_id
from keyahead.cli.options import DEFAULT_MODEL, ModelOption
from keyahead.cli.output import FAILED, CommandError, JsonOption, Output, UsageError
from keyahead.loadtest import junit, report, verdict
from keyahead.loadtest.compare import CompareError, compare
from keyahead.loadtest.config import Config, Kind, Target, Via
from keyahead.loadtest.cost import Prices
from keyahead.loadtest.report_data import ReportError
from keyahead.loadtest.run import GeneratorError
from keyahead.loadtest.shape import Shape
from keyahead.loadtest.texts import TextError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_LONGEST_S = 7 * 86400.0
_NAMES = {Via.CALLS: "keyahead", Via.SESSION: "keyahead by session"}
Price = Annotated[float | None, typer.Option(min=0, help="For the costs, in any currency; give all four or none.")]


@app.callback(invoke_without_command=True)
def loadtest(
    context: typer.Context,
    address: Annotated[
        str | None, typer.Option(envvar="KEYAHEAD_ADDRESS", help="Host and port of a running service; without it one is started.")
    ] = None,
    typists: Annotated[int, typer.Option(min=1, help="People who type at once.")] = 4,
    duration: Annotated[float, typer.Option(min=1, max=_LONGEST_S, metavar="SECONDS", help="How long they type.")] = 180,
    shape: Annotated[
        Shape, typer.Option(help="How many type when; a ramp goes from 1 to --typists and finds the capacity.")
    ] = Shape.STEADY,
    via: Annotated[Via, typer.Option(help="How keyahead is asked: a call for each key, or a Session stream for each typist.")] = Via.CALLS,
    seed: Annotated[int, typer.Option(help="The same seed gives the same keys.")] = 0,
    texts: Annotated[Path | None, typer.Option(help="A folder of source files to type; by default Python's standard library.")] = None,
    history: Annotated[Path | None, typer.Option(help="A git repository, of which what its commits added is typed.")] = None,
    repeat_files: Annotated[bool, typer.Option("--repeat-files", help="Type files again when all have been typed.")] = False,
    take: Annotated[bool, typer.Option("--take", help="Take right suggestions; each system then gets keys of its own.")] = False,
    baselines: Annotated[list[str] | None, typer.Option("--baseline", help=BASELINE_HELP)] = None,
    objectives: Annotated[Path | None, typer.Option(help="The objectives, as a TOML file; by default keyahead's own.")] = None,
    engine_metrics: Annotated[str | None, typer.Option(help="URL of Triton's metrics page, which counts cancels and drafts.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that generate the load; one suffices for some hundred typists.")] = 1,
    price_tokens_in: Price = None,
    price_tokens_out: Price = None,
    price_server_hour: Price = None,
    typing_hours: Price = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write the verdict there as JUnit XML.")] = None,
    output_file: Annotated[Path | None, typer.Option("--output", help="Write the whole result there as JSON.")] = None,
    model: ModelOption = DEFAULT_MODEL,
    as_json: JsonOption = False,
) -> None:
    """Let simulated people type real files against a service, and judge whether it keeps its promise.

    The exit code is 0 if all objectives are met, 1 if one is violated, 2 for wrong usage, and 3 if the run is invalid or too short to tell.
    The prices are per million tokens of an API, per hour of the server that was measured, and hours of typing per developer and month.
    """
    if context.invoked_subcommand:
        return
    output = Output(as_json)
    target = Target(Kind.KEYAHEAD, address or "", _NAMES[via], via=via)
    typed, shards = _texts(texts, history), min(workers, typists)
    config = Config(target, typists, duration, shape, seed, typed, history is not None, repeat_files, take, run_id(), shards)
    prices = _prices(price_tokens_in, price_tokens_out, price_server_hour, typing_hours)
    checks.writable({"--output": output_file, "--junit": junit_file})
    with _sentences():
        job = Job(config, tuple(map(parse, baselines or ())), verdict.load(objectives), prices, model, engine_metrics or "")
        result, found = execute(job, output)
    _show(result, found, output)
    if output_file:
        output_file.write_text(json.dumps(result) + "\n")
    if junit_file:
        junit_file.write_text(junit.to_xml(found, duration))
    output.emit(result)
    raise typer.Exit(verdict.EXIT_CODES[found.status])


@app.command("compare")
def compare_results(
    before: Annotated[Path, typer.Argument(metavar="BEFORE.json", help="A result of `keyahead loadtest --json` or --output.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER.json", help="Another.")],
    as_json: JsonOption = False,
) -> None:
    """Tell whether the second run is worse than the first; the exit code is 1 if it is, with 95 % confidence and by at least 5 %."""
    output = Output(as_json)
    try:
        changes = compare(_own(before), _own(after))
    except CompareError as error:
        raise UsageError(str(error)) from None
    output.console.print(view.changes(changes))
    regressed = any(change.regression for change in changes)
    output.emit({"regression": regressed, "changes": [dataclasses.asdict(change) for change in changes]})
    if regressed:
        raise typer.Exit(FAILED)


@app.command("report")
def report_results(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT.json …", help="A result of `keyahead loadtest --output`; a ramp, or others of the same keys."),
    ],
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page there that needs no other file.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write Markdown for a pull request there.")] = None,
) -> None:
    """Show results to people. The first one is reported, a ramp adds the capacity, and others stand beside the first."""
    if not html_file and not markdown_file:
        raise UsageError("Nothing is to be written: give --html, --markdown or both.")
    checks.writable({"--html": html_file, "--markdown": markdown_file})
    found = [_read(path) for path in results]
    try:
        for file, made in ((html_file, report.html), (markdown_file, report.markdown)):
            if file:
                file.write_text(made(found))
    except ReportError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _sentences() -> Iterator[None]:
    """What may go wrong, as errors of the command line."""
    try:
        yield
    except (TextError, verdict.ObjectivesError) as error:
        raise UsageError(str(error)) from None
    except GeneratorError as error:
        raise CommandError(str(error)) from None


def _texts(folder: Path | None, history: Path | None) -> str:
    if folder and history:
        raise UsageError("Both --texts and --history were given: choose one.")
    return str(history or folder or "")


def _prices(*values: float | None) -> Prices | None:
    given = [value for value in values if value is not None]
    if given and len(given) < len(values):
        raise UsageError("Costs need all of --price-tokens-in, --price-tokens-out, --price-server-hour and --typing-hours.")
    return Prices(*given) if given else None


def _show(result: Mapping[str, Any], found: verdict.Verdict, output: Output) -> None:
    console, own = output.console, result["systems"][0]
    console.print(view.systems(result["systems"]))
    if len(own["phases"]) > 1:
        console.print(view.phases(own))
    if result["capacity_typists"] is not None:
        console.print(f"Capacity: {result['capacity_typists']} typists")
    if result["cost"]:
        console.print(view.costs(result["cost"]))
    console.print(view.verdict(found))


def _own(path: Path) -> dict[str, Any]:
    """Keyahead's own result in a file."""
    own: dict[str, Any] = _read(path)["systems"][0]
    return own


def _read(path: Path) -> dict[str, Any]:
    """A result, of which at least the schema and a system are there. Raises UsageError."""
    try:
        result: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
        if result["schema"] == SCHEMA and result["systems"][0]:
            return result
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a result of 'keyahead loadtest --json'.") from None
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    raise UsageError(f"{path} is no result of this version's 'keyahead loadtest --json': name one.")
