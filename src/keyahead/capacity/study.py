"""One question, answered: so many developers, on that engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from keyahead.capacity import bill as bills
from keyahead.capacity import data, sizing
from keyahead.capacity.bill import Bill, Demand
from keyahead.capacity.data import Prices
from keyahead.capacity.outcome import Outcome
from keyahead.capacity.sizing import Carried, Show
from keyahead.capacity.steps import RooflineSteps
from keyahead.capacity.typists import mean_interval_s
from keyahead.capacity.workload import Engine, Workload
from keyahead.engine.trtllm import roofline

CONCURRENCY = 0.1
"""Of the developers, those who type at the busiest moment. An assumption: no product has published its own. Developers at work on a task of
their own asked for 4.1 new suggestions a minute (`data/typing.json`), our typists, who do nothing but type, for some 6; not all developers
are at such a task at the same time."""
HEADROOM = 1 / 3
"""Envoy lets no replica have more than 1.5 times its share of what is in flight (`hash_balance_factor` 150), so at two thirds of what it
carries on average none has more than it carries."""
_REQUESTS = 12_000


class NotCarried(Exception):
    """The engine keeps the promise for nobody; the text is a sentence with the cure."""


@dataclass(frozen=True, slots=True)
class Study:
    """The answer, with all it was computed from."""

    demand: Demand
    engine: Engine
    workload: Workload
    carried: Carried
    planned: Outcome
    """Of one replica with the typists that are planned for it."""
    bill: Bill
    prices: Prices

    @property
    def cost_per_developer(self) -> float:
        """A month."""
        return self.bill.cost / self.demand.developers

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the answer stands on, one clause each."""
        gpu = isinstance(self.engine.steps, RooflineSteps)
        about = roofline.ASSUMPTIONS[0] if gpu else f"the engine's steps are measured: {data.machine()}"
        decoding = "no drafts" if gpu else f"{self.engine.given:.2g} tokens a step, drafts included"
        typing = f"each asks every {mean_interval_s():.2f} s (data/typing.json)"
        return (
            about,
            f"{self.engine.places} places for one tenant, {decoding}, {self.workload.answer_tokens:.3g} tokens an answer",
            f"{self.demand.active:,.0f} of {self.demand.developers:,} developers type at the busiest moment; {typing}",
            f"{1 - self.workload.new_share:.0%} of the requests find a suggestion that is there or being decoded",
            f"{self.demand.headroom:.0%} headroom, and one replica more",
            f"engine {self.prices.engine_hour.price:.4g} $/h ({self.prices.engine_hour.source})",
            f"service, per core {self.prices.core_hour.price:.4g} $/h ({self.prices.core_hour.source})",
            f"Redis, per GB {self.prices.redis_gb_hour.price:.4g} $/h ({self.prices.redis_gb_hour.source})",
        )

    def to_json(self) -> dict[str, Any]:
        """One object for programs."""
        return {
            "developers": self.demand.developers,
            "active": self.demand.active,
            "headroom": self.demand.headroom,
            "engine": self.engine.name,
            "carried_typists": self.carried.typists,
            "limit": self.carried.limit,
            "alone": self.carried.alone.to_json(),
            "planned": self.planned.to_json(),
            "bill": self.bill.to_json(),
            "cost_per_developer": self.cost_per_developer,
            "seats": {name: {"price": seat.price, "source": seat.source} for name, seat in self.prices.seats.items()},
            "assumptions": list(self.assumptions),
        }


def study(demand: Demand, engine: Engine, workload: Workload, prices: Prices, seed: int = 0, show: Show = lambda _: None) -> Study:
    """Finds what a replica carries, and from that everything else. Raises NotCarried."""
    carried = sizing.carried(engine, workload, seed, show)
    if not carried.typists:
        raise NotCarried(f"{engine.name} keeps the promise for nobody ({carried.limit}): choose a smaller --model or a faster --gpu.")
    needed = bills.engines(demand.active, carried.typists, demand.headroom)
    show("the planned load")
    planned = sizing.trial(engine, workload, max(1, math.ceil(demand.active / needed)), seed, _REQUESTS)
    whole = bills.bill(demand, engine, carried.typists, planned, 1 / mean_interval_s(), data.parts(), prices)
    return Study(demand, engine, workload, carried, planned, whole, prices)
