"""Prometheus metrics. Few labels, never a tenant, never text.

The request histogram starts when the call's bytes have arrived and ends when its answer is ready: the client's network and the wait for the
event loop are not in it, so the loop's lag stands beside it.
"""

from __future__ import annotations

import asyncio
import collections
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from keyahead.service import sli
from keyahead.service.model import Timings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyahead.service.model import Answer, Outcome

LATENCY_BUCKETS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.4, 0.6, 1.0, 2.5)
"""Seconds. One boundary lies exactly on the objective of 0.2 s and several near it, where interpolation matters."""

LAG_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
LAG_TICK_S: Final = 0.1
"""Each look costs the loop a tenth of a millisecond, which a call may have to wait for."""

STAGES: Final = tuple(each.name for each in fields(Timings))
QUEUE: Final = "queue"
"""The stage of a generation, not of a call: its wait for a place at the engine."""


class Tally(Collector):
    """A counter of what is counted while a client waits: in a dictionary, until it is scraped, which takes a third of the time."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...], registry: CollectorRegistry) -> None:
        self._described = (name, documentation, None, labels)
        self.counts: collections.Counter[tuple[str, ...]] = collections.Counter()
        """By the labels' values."""
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What Prometheus is told, on a thread of its own."""
        family = CounterMetricFamily(*self._described)
        for values, count in dict(self.counts).items():
            family.add_metric(values, count)
        yield family


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self, model_name: str = "", model_version: str = "") -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Histogram(
            "keyahead_request_seconds",
            "Time from a call's arrival to its answer.",
            ("method", "outcome", "source", "trigger"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        """`outcome` is ok or the gRPC code in small letters; `source` is where the answer came from, none without one; `trigger` is who
        asked, unknown for a call that was refused before its message was read. In a session each suggestion is a call of the method
        Session; the rest of one that was cut short, which comes by itself, is one of SessionRest.
        """
        self.stages = Histogram(
            "keyahead_stage_seconds",
            "Time an answered call spent in each stage.",
            ("stage",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.cache = Tally("keyahead_cache_lookups", "Look-ups in the prefix cache.", ("tier", "outcome"), registry)
        self.drafts_proposed = Counter("keyahead_drafts_proposed", "Draft tokens sent for verification.", ("source",), registry=registry)
        self.drafts_accepted = Counter("keyahead_drafts_accepted", "Draft tokens the model agreed with.", ("source",), registry=registry)
        self.cancels = Counter("keyahead_cancels", "Calls whose client left, by the stage they were in.", ("phase",), registry=registry)
        self.superseded = Counter("keyahead_superseded", "Calls ended by a newer one of their session.", registry=registry)
        self.admission = Counter(
            "keyahead_admission",
            "Generations by who waits for them and what became of their place.",
            ("class", "outcome"),
            registry=registry,
        )
        """`outcome` is start, refuse, drop or evict; one that started may be evicted later."""
        self.tokens = Counter("keyahead_tokens", "Tokens of answered calls.", ("kind",), registry=registry)
        self.outcomes = Counter("keyahead_outcomes", "What became of suggestions, once for each.", ("kind", "source"), registry=registry)
        self.suggested_chars = Counter(
            "keyahead_suggested_chars", "Characters of suggestions whose outcome is known.", ("kind",), registry=registry
        )
        """`kind` is shown, or accepted of those."""
        self.sessions = Gauge("keyahead_sessions", "Session streams that are open.", registry=registry)
        self.in_flight = Gauge("keyahead_requests_in_flight", "Calls being worked on.", registry=registry)
        self.loop_lag = Histogram("keyahead_event_loop_lag_seconds", "How late a ticker wakes up.", buckets=LAG_BUCKETS, registry=registry)
        self.engine_up = Gauge("keyahead_engine_up", "1 while the engine is reachable and warm.", registry=registry)
        self.build = {"version": version("keyahead"), "model": model_name, "model_version": model_version}
        Info("keyahead_build", "What is running.", registry=registry).info(self.build)
        for stage in (*STAGES, QUEUE):
            self.stages.labels(stage)
        # From zero on, because Prometheus sees no increase in a series that begins at 1: the first failure would not count.
        for outcome, trigger in sli.FIRST_SERIES:
            self.requests.labels("Complete", outcome, "none", trigger)

    def drafted(self, source: str, proposed: int, accepted: int) -> None:
        """Count a draft that the engine has verified."""
        self.drafts_proposed.labels(source).inc(proposed)
        self.drafts_accepted.labels(source).inc(accepted)

    def answered(self, answer: Answer) -> None:
        """Count an answer's stages and tokens; a stage that was not run is not counted."""
        for stage in STAGES:
            spent_ms: float = getattr(answer.timings, stage)
            if spent_ms > 0:
                self.stages.labels(stage).observe(spent_ms / 1000)
        self.tokens.labels("prompt").inc(answer.prompt_tokens)
        self.tokens.labels("completion").inc(answer.completion_tokens)

    def settled(self, outcome: Outcome) -> None:
        """Count what became of a suggestion."""
        self.outcomes.labels(outcome.kind.value, outcome.source.value).inc()
        self.suggested_chars.labels("shown").inc(outcome.shown_chars)
        self.suggested_chars.labels("accepted").inc(outcome.accepted_chars)

    async def watch_loop(self) -> None:
        """Observe the event loop's lag until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_TICK_S
            await asyncio.sleep(LAG_TICK_S)
            self.loop_lag.observe(max(0.0, loop.time() - due))
