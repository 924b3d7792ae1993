"""Grafana's dashboard: the objective first, then where the time goes, what helps, and the engine."""

from __future__ import annotations

import itertools
import json
import string
from dataclasses import dataclass
from typing import Final, TypeVar

import slo_rules
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import GraphThresholdsStyleConfig, ReduceDataOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, GraphThresholdsStyleMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold
from slo_rules import Slo

RATE: Final = "$__rate_interval"
_SOURCE: Final = DataSourceRef("prometheus", "${datasource}")

TYPED: Final = 'trigger!="manual"'
"""Calls made while somebody typed."""


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the legend of its series."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """What one panel shows."""

    title: str
    meaning: str
    queries: tuple[Query, ...]
    unit: str = "short"
    """Grafana's name of the unit."""
    columns: int = 8
    number: bool = False
    """One big number rather than lines over time."""
    bounds: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    """From which value on which colour."""


def rows(slo: Slo) -> dict[str, tuple[Panel, ...]]:
    """All panels, by row."""
    return {"Objective": _objective(slo), "Time": _time(slo), "Answers": _answers(), "Engine": _engine()}


def _objective(slo: Slo) -> tuple[Panel, ...]:
    own = slo.selector
    windows = ("5m", "1h", "6h")
    burns = tuple(Query(f"{slo_rules.error_ratio(slo_rules.minutes(each))}{own} / {slo.budget}", each) for each in windows)
    return (
        Panel(
            "p99",
            "Of the completions asked for while typing, 5 min.",
            (Query(slo_rules.P99 + own, "p99"),),
            "s", 6, number=True, bounds=((None, "green"), (slo.objective_s, "red")),
        ),
        Panel(
            "Good completions",
            f"Share of counted calls answered within the objective, {slo_rules.text(slo.period_min)}.",
            (Query(f"1 - {slo_rules.error_ratio(slo.period_min)}{own}", "good"),),
            "percentunit", 6, number=True, bounds=((None, "red"), (slo.target, "green")),
        ),
        Panel(
            "Budget left",
            f"Of the bad calls allowed in {slo_rules.text(slo.period_min)}.",
            (Query(slo_rules.BUDGET_LEFT + own, "left"),),
            "percentunit", 6, number=True, bounds=((None, "red"), (0, "orange"), (0.5, "green")),
        ),
        Panel("Calls", "Counted calls a second.", (Query(slo_rules.TOTAL + own, "calls"),), "reqps", 6, number=True),
        Panel(
            "Burn rate",
            "1 uses the budget up exactly at the end of the period. The alerts begin at 14.4, 6, 3 and 1.",
            burns, columns=12, bounds=((None, "green"), (1, "orange"), (14.4, "red")),
        ),
        Panel(
            "Calls by outcome",
            "All calls, those asked for by hand included.",
            (Query(f"sum by (outcome) (rate(keyahead_request_seconds_count[{RATE}]))", "{{outcome}}"),),
            "reqps", 12,
        ),
    )  # fmt: skip


def _quantile(share: float, histogram: str, matchers: str = "", by: str = "le") -> str:
    return f"histogram_quantile({share}, sum by ({by}) (rate({histogram}_bucket{{{matchers}}}[{RATE}])))"


def _time(slo: Slo) -> tuple[Panel, ...]:
    requests = "keyahead_request_seconds"
    typed = tuple(Query(_quantile(share, requests, f'{TYPED},outcome="ok"'), f"p{share * 100:.0f}") for share in (0.5, 0.9, 0.99))
    manual = Query(_quantile(0.99, requests, 'trigger="manual",outcome="ok"'), "p99 by hand")
    return (
        Panel("Latency", "Answered calls made while typing.", typed, "s", bounds=((None, "green"), (slo.objective_s, "red"))),
        Panel(
            "p99 by stage",
            "Where an answered call spends its time; each stage has its own p99, so they do not add up.",
            (Query(_quantile(0.99, "keyahead_stage_seconds", by="le, stage"), "{{stage}}"),),
            "s",
        ),
        Panel(
            "Beside the histogram",
            "How late the event loop wakes, which no call's time contains; and calls made by hand, which wait for the whole answer.",
            (Query(_quantile(0.99, "keyahead_event_loop_lag_seconds"), "p99 loop lag"), manual),
            "s",
        ),
    )


def _answers() -> tuple[Panel, ...]:
    answered = 'keyahead_request_seconds_count{outcome="ok",source!="none"}'
    by_source = f"sum by (source) (rate({answered}[{RATE}])) / ignoring(source) group_left sum(rate({answered}[{RATE}]))"
    drafts, accepted = (f'sum(rate(keyahead_engine_tokens_total{{kind="{kind}"}}[{RATE}]))' for kind in ("draft", "accepted_draft"))
    return (
        Panel(
            "Answers by source",
            "memory and redis are cache hits, in_flight joined a decode already running.",
            (Query(by_source, "{{source}}"),),
            "percentunit", 6,
        ),
        Panel(
            "Cache",
            "Look-ups a second, by tier and outcome.",
            (Query(f"sum by (tier, outcome) (rate(keyahead_cache_lookups_total[{RATE}]))", "{{tier}} {{outcome}}"),),
            "ops", 6,
        ),
        Panel("Draft acceptance", "Drafts the model agreed with, of those it verified.", (Query(f"{accepted} / {drafts}", "accepted"),),
              "percentunit", 6),
        Panel(
            "Given up",
            "Calls whose client left or that a newer call of their session overtook.",
            (
                Query(f"sum(rate(keyahead_cancels_total[{RATE}]))", "cancelled"),
                Query(f"sum(rate(keyahead_superseded_total[{RATE}]))", "superseded"),
            ),
            "reqps", 6,
        ),
    )  # fmt: skip


def _engine() -> tuple[Panel, ...]:
    reused, computed = (f'sum(rate(keyahead_engine_tokens_total{{kind="{kind}"}}[{RATE}]))' for kind in ("reused", "prefill"))
    return (
        Panel(
            "Tokens",
            "Tokens a second, by what was done to them.",
            (Query(f"sum by (kind) (rate(keyahead_engine_tokens_total[{RATE}]))", "{{kind}}"),),
        ),
        Panel(
            "Prompt tokens found in the KV cache",
            "Share of a prompt that needed no computing.",
            (Query(f"{reused} / ({reused} + {computed})", "reused"),),
            "percentunit",
        ),
        Panel(
            "Sequences ended",
            "By reason.",
            (Query(f"sum by (reason) (rate(keyahead_engine_finished_total[{RATE}]))", "{{reason}}"),),
            "ops",
        ),
        Panel("Steps", "Forward passes a second.", (Query(f"sum(rate(keyahead_engine_steps_total[{RATE}]))", "steps"),), "ops"),
        Panel("Calls in flight", "Now being worked on.", (Query("sum(keyahead_requests_in_flight)", "in flight"),)),
        Panel(
            "Engine up",
            "Services that reach a warm engine, of all.",
            (Query("avg(keyahead_engine_up)", "up"),),
            "percentunit", bounds=((None, "red"), (1, "green")),
        ),
    )  # fmt: skip


def render(slo: Slo) -> str:
    """The dashboard as Grafana imports it."""
    built = (
        dashboard.Dashboard("keyahead")
        .uid("keyahead")
        .tags(["keyahead", "slo"])
        .time("now-6h", "now")
        .refresh("30s")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    ids = itertools.count(1)
    for title, panels in rows(slo).items():
        built = built.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            built = built.with_panel((_number if panel.number else _lines)(panel, next(ids)))
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _lines(panel: Panel, panel_id: int) -> timeseries.Panel:
    style = GraphThresholdsStyleMode.DASHED if len(panel.bounds) > 1 else GraphThresholdsStyleMode.OFF
    built = timeseries.Panel().thresholds_style(GraphThresholdsStyleConfig().mode(style)).fill_opacity(8).min(0).height(8)
    return _common(built, panel, panel_id)


def _number(panel: Panel, panel_id: int) -> stat.Panel:
    built = stat.Panel().graph_mode(BigValueGraphMode.AREA).reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).height(5)
    return _common(built, panel, panel_id)


_Built = TypeVar("_Built", timeseries.Panel, stat.Panel)


def _common(built: _Built, panel: Panel, panel_id: int) -> _Built:
    built = built.id(panel_id).title(panel.title).description(panel.meaning).unit(panel.unit).span(panel.columns).datasource(_SOURCE)
    for letter, query in zip(string.ascii_uppercase, panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend)
        built = built.with_target(target.ref_id(letter).range().datasource(_SOURCE))
    return built.thresholds(dashboard.ThresholdsConfig().steps([Threshold(value, colour) for value, colour in panel.bounds]))
