"""From what one replica carries to what so many developers need, and what it costs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from keyahead.capacity.data import Parts, Prices
from keyahead.capacity.outcome import Outcome
from keyahead.capacity.workload import Engine
from keyahead.loadtest.cost import HOURS_PER_MONTH

LOOP_SHARE = 0.6
"""Of one core, the load at which another service is added (`deploy/kubernetes`)."""
SERVICE_CORES = 2
"""That a replica of the service is given there."""
SERVICE_SESSIONS = 256
"""Session streams that a service accepts by default (`max_sessions`)."""
ENVOY_CONNECTIONS = 20_000
"""That one Envoy accepts (`deploy/envoy/envoy.yaml`)."""
LOOKUP_COMMANDS = 9
"""A look-up that memory does not answer reads nine lists in one round trip (`cache/anchors.py`)."""
WRITE_COMMANDS = 6
"""Of a completion: a transaction of four (`cache/redis_writer.py`)."""
SHARD_COMMANDS_PER_S, SHARD_BYTES = 50_000, 12e9
"""Of one Redis, which has one thread. Assumptions: half of the 100,000 simple commands that are usually named, and what leaves a machine of
16 GB room to save nothing and fail over."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of the whole."""

    developers: int
    active: float
    """Developers who type at the same time, at the busiest moment."""
    headroom: float
    """Of what a replica carries, the part that is left free."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What it takes. Money is in US dollars a month."""

    requests_per_s: float
    typists_per_engine: float
    engines: int
    """Those that the load needs, and one that may fail or be replaced."""
    services: int
    sessions_per_service: int
    """If every developer's editor is connected."""
    envoys: int
    redis_bytes: float
    """Completions."""
    redis_kv_bytes: float
    """KV of cold prompts, if it is kept there, which only a single server can."""
    redis_commands_per_s: float
    redis_shards: int
    network_unary_bytes_per_s: float
    """With each request sending its document whole."""
    network_session_bytes_per_s: float
    """With edits on a stream."""
    engines_cost: float
    services_cost: float
    redis_cost: float

    @property
    def cost(self) -> float:
        """Of all that is counted: neither Envoy, traffic, nor people."""
        return self.engines_cost + self.services_cost + self.redis_cost

    def to_json(self) -> dict[str, Any]:
        """As the command prints it."""
        return {**dataclasses.asdict(self), "cost": self.cost}


def engines(active: float, carried: int, headroom: float) -> int:
    """The least number of replicas of which each keeps the headroom, without the spare one."""
    return max(1, math.ceil(active / (carried * (1 - headroom)) - 1e-9))


def bill(demand: Demand, engine: Engine, carried: int, outcome: Outcome, per_typist_s: float, parts: Parts, prices: Prices) -> Bill:
    """The whole, from one replica.

    Args:
        demand: by how many.
        engine: of which there are to be replicas.
        carried: typists that one replica of the engine carries.
        outcome: of one replica at the planned load.
        per_typist_s: requests of a typist and second.
        parts: what service, Redis and network take.
        prices: of an hour.

    """
    needed = engines(demand.active, carried, demand.headroom)
    requests = demand.active * per_typist_s
    completions = requests * outcome.completions_per_s / outcome.asked_per_s
    services = max(2, math.ceil(requests * parts.cpu_s_per_request / LOOP_SHARE))
    redis_bytes = completions * parts.redis_ttl_s * parts.redis_bytes_per_completion
    kv_bytes = (needed + 1) * engine.kv_store_bytes
    commands = requests * (1 - outcome.hit_share) * LOOKUP_COMMANDS + completions * WRITE_COMMANDS
    return Bill(
        requests_per_s=requests,
        typists_per_engine=demand.active / needed,
        engines=needed + 1,
        services=services,
        sessions_per_service=math.ceil(demand.developers / services),
        envoys=max(1, math.ceil(demand.developers / ENVOY_CONNECTIONS)),
        redis_bytes=redis_bytes,
        redis_kv_bytes=kv_bytes,
        redis_commands_per_s=commands,
        redis_shards=max(1, math.ceil(max(redis_bytes / SHARD_BYTES, commands / SHARD_COMMANDS_PER_S))),
        network_unary_bytes_per_s=requests * (parts.document_bytes + parts.answer_bytes),
        network_session_bytes_per_s=requests * (parts.edit_bytes + parts.answer_bytes),
        engines_cost=(needed + 1) * prices.engine_hour.price * HOURS_PER_MONTH,
        services_cost=services * SERVICE_CORES * prices.core_hour.price * HOURS_PER_MONTH,
        redis_cost=(redis_bytes + kv_bytes) / 1e9 * prices.redis_gb_hour.price * HOURS_PER_MONTH,
    )
