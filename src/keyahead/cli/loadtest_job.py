"""What one `keyahead loadtest` does: runs the service, or a stack of its own, and the baselines, and puts the result together."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keyahead.cli import loadtest_checks as checks
from keyahead.cli import loadtest_view as view
from keyahead.cli.baselines import reachable
from keyahead.cli.output import Output, UsageError
from keyahead.cli.private_stack import Addresses, private_stack
from keyahead.loadtest import host, verdict
from keyahead.loadtest.capacity import capacity
from keyahead.loadtest.config import Config, Target
from keyahead.loadtest.cost import Cost, Prices, Usage, cost
from keyahead.loadtest.crowd import members
from keyahead.loadtest.engine_page import EnginePage
from keyahead.loadtest.run import run
from keyahead.loadtest.shape import Shape

SCHEMA = 1
"""Of the result; counted up when a field changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for."""

    config: Config
    """Without an address, a stack is started."""
    rivals: tuple[Target, ...]
    bounds: verdict.Objectives
    prices: Prices | None
    model: str
    """Of the stack that is started."""
    engine_metrics: str
    """URL; empty: not known."""


def run_id() -> str:
    """A name that keeps the sessions of two runs apart."""
    return f"loadtest-{secrets.token_hex(6)}"


def execute(job: Job, output: Output) -> tuple[dict[str, Any], verdict.Verdict]:
    """The result of everything, and the verdict on the service. Raises TextError and GeneratorError, beside the command line's own."""
    members(dataclasses.replace(job.config, shards=1), 0)  # Say at once if there is not enough to type.
    for rival in job.rivals:
        checks.baseline(rival)
    if job.config.target.address:
        checks.service(job.config.target.address)
    started = datetime.now(UTC)
    own, page, others = _ask_all(job, output)
    cancels = page.cancels if page else None
    found = verdict.judge(own, job.bounds, cancels)
    carried = capacity(own["phases"]) if job.config.shape is Shape.RAMP else None
    result = {
        "schema": SCHEMA,
        "started_at": started.isoformat(timespec="seconds"),
        "host": host.describe(),
        "objectives": dataclasses.asdict(job.bounds),
        "verdict": found.to_json(),
        "cancels": cancels,
        "engine": page and page.to_json(),
        "capacity_typists": carried,
        "cost": _cost(job.prices, own, others, job.config.typists if carried is None else carried).to_json() if job.prices else None,
        "systems": [own, *others],
    }
    return result, found


def _ask_all(job: Job, output: Output) -> tuple[dict[str, Any], EnginePage | None, list[dict[str, Any]]]:
    """The service's run, what the engine counted meanwhile, and the baselines' runs."""
    with ExitStack() as running:
        address = job.config.target.address
        where = Addresses(address, job.engine_metrics) if address else running.enter_context(private_stack(job.model))
        config = dataclasses.replace(job.config, target=dataclasses.replace(job.config.target, address=where.service))
        page = _engine_page(where.engine_metrics)
        own = _run(config, output, page)
        return own, page, [_ask_baseline(rival, config, output) for rival in job.rivals]


def _engine_page(url: str) -> EnginePage | None:
    try:
        return EnginePage(url) if url else None
    except (OSError, ValueError) as error:
        raise UsageError(f"{url} cannot be read ({error}): name Triton's metrics page, or leave --engine-metrics out.") from None


def _ask_baseline(rival: Target, config: Config, output: Output) -> dict[str, Any]:
    with reachable(rival, config.seed) as target:
        return _run(dataclasses.replace(config, target=target), output)


def _run(config: Config, output: Output, page: EnginePage | None = None) -> dict[str, Any]:
    """A run; the engine's page is read with each of its live figures, and at its end."""
    with view.live(output.console, config.target.name, config.duration_s) as show:

        def look(figures: Mapping[str, Any]) -> None:
            show(figures)
            if page:
                page.look(figures["now_s"])

        return run(config, look)


def _cost(prices: Prices, own: Mapping[str, Any], others: Sequence[Mapping[str, Any]], typists: int) -> Cost:
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
