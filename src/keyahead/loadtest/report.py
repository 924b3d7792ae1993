"""A load test's result for people: one HTML page that needs nothing else, and Markdown for a pull request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from keyahead.loadtest import report_charts as charts
from keyahead.loadtest import report_data as data
from keyahead.loadtest.report_data import Runs, System
from keyahead.loadtest.verdict import Status

_VERDICTS = {
    Status.PASS: "Promise kept",
    Status.FAIL: "Promise broken",
    Status.INCONCLUSIVE: "Too short to tell",
    Status.INVALID: "Not a valid run",
}
_MARKS = {Status.PASS: "✓", Status.FAIL: "✕", Status.INCONCLUSIVE: "?", Status.INVALID: "!", Status.NOT_MEASURED: "-"}
_GIB = 1 << 30
_PLAIN = " .,;()/%+-="
"""Beside letters and digits, what means nothing in Markdown where we write it."""


def html(results: Sequence[Mapping[str, Any]]) -> str:
    """The page. Raises ReportError."""
    runs = data.gather(results)
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"percent": charts.percent, "money": charts.money, "ms": _ms}
    own, duration_s = runs.systems[0], runs.config["duration_s"]
    template = page.from_string((files("keyahead.loadtest") / "report.html").read_text())
    return template.render(
        runs=runs,
        own=own,
        cases=runs.first["verdict"]["objectives"],
        status=runs.first["verdict"]["status"],
        facts=_facts(runs),
        stages=data.stages(own.records),
        sources=data.sources(own.records, duration_s),
        drafts=data.drafts(runs.first.get("engine"), duration_s),
        duration_s=duration_s,
        typed_per_minute=_per_minute(own, "typed_characters"),
        charts=charts,
        data=data,
        verdicts=_VERDICTS,
        marks=_MARKS,
    )


def _per_minute(system: System, count: str) -> float:
    return float(system.figures[count] / system.figures["duration_s"] * 60)


def _facts(runs: Runs) -> dict[str, str]:
    """On what machine, of which version, with which keys: what a figure says little without."""
    host, config = runs.first["host"], runs.config
    texts = config["texts"] or "the standard library of Python"
    return {
        "Processor": f"{host['processor']}, {host['cores']} cores used, {host['memory_bytes'] / _GIB:.0f} GiB",
        "System": f"{host['system']}, Python {host['python']}",
        "keyahead": " ".join(filter(None, (host["keyahead"], (host["git_sha"] or "")[:12]))),
        "Begun": f"{datetime.fromisoformat(runs.first['started_at']):%-d %B %Y, %H:%M %Z}",
        "Load": f"{config['typists']} typist{'' if config['typists'] == 1 else 's'}, {config['duration_s']:,.0f} s, {config['shape']}",
        "Keys": f"seed {config['seed']}{', right suggestions are taken' if config['takes'] else ''}",
        "Texts": f"what the commits of {texts} added" if config["git"] else texts,
    }


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """For a pull request: verdict, figures, and what they were measured on. Raises ReportError."""
    runs = data.gather(results)
    verdict = runs.first["verdict"]
    parts = [
        f"### {_MARKS[verdict['status']]} {_VERDICTS[verdict['status']]}: keyahead load test",
        _objectives(verdict),
        _systems(runs.systems),
    ]
    if runs.ramp:
        parts.append(f"Capacity: {runs.ramp.capacity} typists.")
    if runs.cost:
        parts.append(
            f"Cost of 1,000 suggestions: API {_money(runs.cost['api_per_1000'])}, own server {_money(runs.cost['server_per_1000'])}."
        )
    parts.append("<sub>" + " · ".join(f"{name}: {_escaped(value)}" for name, value in _facts(runs).items()) + "</sub>")
    return "\n\n".join(parts) + "\n"


def _objectives(verdict: Mapping[str, Any]) -> str:
    rows = [["", "objective", "value", "95 % confident", "bound"]]
    for case in verdict["objectives"]:
        shown = data.OBJECTIVES[case["name"]]
        between = "" if case["low"] is None else f"{shown.amount(case['low'])} to {shown.amount(case['high'])}"
        bound = f"{'≥' if shown.at_least else '≤'} {shown.amount(case['bound'])}"
        rows.append([f"{_MARKS[case['status']]} {case['status']}", shown.title, shown.amount(case["value"]), between, bound])
    return _table(rows)


def _systems(systems: Sequence[System]) -> str:
    rows = [["system", "requests", "p50 ms", "p99 ms", "within 200 ms", "before the next key", "useful", "useful a minute"]]
    for system in systems:
        figures = system.figures
        latency = figures["latency_ms"]
        shares = (system.in_time, system.share("painted", "asked"), figures["useful_share"])
        per_minute = f"{figures['useful_characters_per_minute']:.0f}"
        name = _escaped(system.name)
        rows.append([name, f"{figures['asked']:,}", _ms(latency["p50"]), _ms(latency["p99"]), *map(charts.percent, shares), per_minute])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _escaped(text: str) -> str:
    """Text that Markdown and HTML read as nothing but text."""
    return "".join(each if each.isalnum() or each in _PLAIN else f"&#{ord(each)};" for each in text)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _money(value: float | None) -> str:
    return "-" if value is None else charts.money(value)
