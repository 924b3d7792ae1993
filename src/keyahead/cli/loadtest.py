"""`keyahead loadtest`: simulated people type against a service, and each answer is judged. docs/loadtest.md tells how and why."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from keyahead.cli import loadtest_view as view
from keyahead.cli.baselines import HELP as BASELINE_HELP
from keyahead.cli.baselines import parse, reachable
from keyahead.cli.options import DEFAULT_MODEL, ModelOption
from keyahead.cli.output import FAILED, CommandError, JsonOption, Output, UsageError
from keyahead.cli.private_stack import Addresses, private_stack
from keyahead.loadtest import engine_page, host, junit, verdict
from keyahead.loadtest.capacity import capacity
from keyahead.loadtest.compare import CompareError, compare
from keyahead.loadtest.config import Config, Kind, Target
from keyahead.loadtest.cost import Cost, Prices, Usage, cost
from keyahead.loadtest.run import GeneratorError, run
from keyahead.loadtest.shape import Shape
from keyahead.loadtest.texts import TextError

SCHEMA = 1
"""Of the result; counted up when a field changes its meaning or goes away."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Price = Annotated[float | None, typer.Option(min=0, help="For the costs, in any currency; give all four or none.")]


@app.callback(invoke_without_command=True)
def loadtest(
    context: typer.Context,
    address: Annotated[
        str | None, typer.Option(envvar="KEYAHEAD_ADDRESS", help="Host and port of a running service; without it one is started.")
    ] = None,
    typists: Annotated[int, typer.Option(min=1, help="People who type at once.")] = 4,
    duration: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How long they type.")] = 180,
    shape: Annotated[
        Shape, typer.Option(help="How many type when; a ramp goes from 1 to --typists and finds the capacity.")
    ] = Shape.STEADY,
    seed: Annotated[int, typer.Option(help="The same seed gives the same keys.")] = 0,
    texts: Annotated[Path | None, typer.Option(help="A folder of source files to type; by default Python's standard library.")] = None,
    history: Annotated[Path | None, typer.Option(help="A git repository, of which what its commits added is typed.")] = None,
    repeat_files: Annotated[bool, typer.Option("--repeat-files", help="Type files again when all have been typed.")] = False,
    take: Annotated[bool, typer.Option("--take", help="Take right suggestions; each system then gets keys of its own.")] = False,
    baselines: Annotated[list[str] | None, typer.Option("--baseline", help=BASELINE_HELP)] = None,
    objectives: Annotated[Path | None, typer.Option(help="The objectives, as a TOML file; by default keyahead's own.")] = None,
    engine_metrics: Annotated[str | None, typer.Option(help="URL of Triton's metrics page, for what cancels cost.")] = None,
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
    prices = _prices(price_tokens_in, price_tokens_out, price_server_hour, typing_hours)
    config = Config(
        Target(Kind.KEYAHEAD, address or "", "keyahead"),
        typists,
        duration,
        shape,
        seed,
        _texts(texts, history),
        git=history is not None,
        repeat=repeat_files,
        takes=take,
        run_id=f"loadtest-{secrets.token_hex(6)}",
        shards=workers,
    )
    rivals = [parse(named) for named in baselines or ()]
    with _sentences():
        bounds = verdict.load(objectives)
        config.sources()  # Say at once if there is nothing to type.
        started = datetime.now(UTC)
        with ExitStack() as running:
            where = Addresses(address, engine_metrics or "") if address else running.enter_context(private_stack(model))
            config = dataclasses.replace(config, target=dataclasses.replace(config.target, address=where.service))
            own, cancels = _measure(config, where.engine_metrics, output)
            others = [_ask_baseline(rival, config, output) for rival in rivals]
    found = verdict.judge(own, bounds, cancels)
    carried = capacity(own["phases"]) if shape is Shape.RAMP else None
    result = {
        "schema": SCHEMA,
        "started_at": started.isoformat(timespec="seconds"),
        "host": host.describe(),
        "objectives": dataclasses.asdict(bounds),
        "verdict": found.to_json(),
        "cancels": cancels,
        "capacity_typists": carried,
        "cost": _cost(prices, own, others, carried or typists).to_json() if prices else None,
        "systems": [own, *others],
    }
    _report(result, found, output)
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


def _measure(config: Config, engine_metrics: str, output: Output) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Our own run, and what the engine did about cancels meanwhile."""
    before = _read_page(engine_metrics)
    result = _run(config, output)
    after = _read_page(engine_metrics)
    return result, engine_page.grown(before, after) if before and after else None


def _read_page(url: str) -> dict[str, float] | None:
    try:
        return engine_page.read(url) if url else None
    except OSError as error:
        raise UsageError(f"{url} cannot be read ({error}): name Triton's metrics page, or leave --engine-metrics out.") from None


def _ask_baseline(rival: Target, config: Config, output: Output) -> dict[str, Any]:
    with reachable(rival, config.seed) as target:
        return _run(dataclasses.replace(config, target=target), output)


def _run(config: Config, output: Output) -> dict[str, Any]:
    with view.live(output.console, config.target.name, config.duration_s) as show:
        return run(config, show)


def _cost(prices: Prices, own: Mapping[str, Any], others: list[dict[str, Any]], typists: int) -> Cost:
    """Tokens as an API counted them in this run; without one, those of our own engine's prompts."""
    counted = next((other["figures"] for other in others if other["figures"]["tokens_in"]), None)
    records = own["records"]
    prompts = [tokens for tokens in records["tokens_in"] if tokens] or [0]
    answers = [out for tokens, out in zip(records["tokens_in"], records["tokens_out"], strict=True) if tokens] or [0]
    usage = Usage(
        tokens_in=counted["tokens_in"] / counted["asked"] if counted else sum(prompts) / len(prompts),
        tokens_out=counted["tokens_out"] / counted["asked"] if counted else sum(answers) / len(answers),
        suggestions_per_hour=own["figures"]["asked"] / sum(_typist_hours(phase) for phase in own["phases"]),
        capacity=typists,
    )
    return cost(prices, usage)


def _typist_hours(phase: Mapping[str, Any]) -> float:
    return float(phase["typists"] * (phase["end_s"] - phase["start_s"]) / 3600)


def _report(result: Mapping[str, Any], found: verdict.Verdict, output: Output) -> None:
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
    try:
        result: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
        own: dict[str, Any] = result["systems"][0]
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a result of 'keyahead loadtest --json'.") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise UsageError(f"{path} is no result of 'keyahead loadtest --json': name one.") from None
    return own
