"""From an OpenSLO document to Prometheus' recording rules and alerts.

Names of recorded series are those of sloth (`slo:sli_error:ratio_rate5m`). Only the 5 min rates read the histogram; longer windows sum
these up, which weighs every call alike and costs a Prometheus little even for 30 days.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

GOOD: Final = "slo:sli_good:rate5m"
TOTAL: Final = "slo:sli_total:rate5m"
P99: Final = "slo:request_seconds:p99_5m"
BUDGET_LEFT: Final = "slo:period_error_budget_remaining:ratio"
BASE_WINDOW_MIN: Final = 5
EVALUATED_EVERY: Final = "30s"

MIN_CALLS: Final = 100
"""Calls in 5 min below which p99 is the slowest of them and no reason for a ticket."""
_LATE_MIN: Final = 10
_MINUTES: Final = {"m": 1, "h": 60, "d": 1440}


@dataclass(frozen=True, slots=True)
class Burn:
    """An alert on the speed at which the budget goes."""

    name: str
    summary: str
    severity: str
    factor: float
    """How many times faster than would use the budget up exactly at the period's end."""
    long_min: int
    """The window in minutes."""
    after: str

    @property
    def short_min(self) -> int:
        """The window that lets the alert end soon after its cause, in minutes: a twelfth (SRE workbook)."""
        return self.long_min // 12


@dataclass(frozen=True, slots=True)
class Slo:
    """What the document says."""

    name: str
    service: str
    good: str
    """PromQL, with {{.window}} for the range."""
    total: str
    target: float
    period_min: int
    burns: tuple[Burn, ...]

    @property
    def budget(self) -> float:
        """The share of calls that may be bad."""
        return round(1 - self.target, 9)

    @property
    def objective_s(self) -> float:
        """The bucket bound within which an answer is good."""
        return float(re.findall(r'le="([\d.]+)"', self.good)[0])

    @property
    def selector(self) -> str:
        """The label matcher of its recorded series."""
        return f'{{slo="{self.name}"}}'

    def over(self, query: str, window: str) -> str:
        """A query of the document over a range."""
        return query.replace("{{.window}}", window)


def read(path: Path) -> Slo:
    """The SLO of an OpenSLO file."""
    spec: dict[str, Any]
    document = next(each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "SLO")
    spec = document["spec"]
    metric = spec["indicator"]["spec"]["ratioMetric"]
    good, total = (metric[each]["metricSource"]["spec"]["query"] for each in ("good", "total"))
    period = minutes(spec["timeWindow"][0]["duration"])
    burns = tuple(map(_burn, spec["alertPolicies"]))
    return Slo(document["metadata"]["name"], spec["service"], good, total, spec["objectives"][0]["target"], period, burns)


def _burn(policy: dict[str, Any]) -> Burn:
    (alert,) = policy["spec"]["conditions"]
    severity, condition = alert["spec"]["severity"], alert["spec"]["condition"]
    window = minutes(condition["lookbackWindow"])
    return Burn(
        policy["metadata"]["name"], policy["spec"]["description"], severity, condition["threshold"], window, condition["alertAfter"]
    )


def minutes(duration: str) -> int:
    """A duration such as 5m, 6h or 30d."""
    return int(duration[:-1]) * _MINUTES[duration[-1]]


def text(duration_min: int) -> str:
    """The reverse, in the largest unit that fits."""
    unit = next(unit for unit in "dhm" if duration_min % _MINUTES[unit] == 0)
    return f"{duration_min // _MINUTES[unit]}{unit}"


def error_ratio(window_min: int) -> str:
    """The recorded series with the share of bad calls in a window."""
    return f"slo:sli_error:ratio_rate{text(window_min)}"


def windows(slo: Slo) -> list[int]:
    """Every window that is recorded, in minutes."""
    needed = {minute for burn in slo.burns for minute in (burn.short_min, burn.long_min)}
    return sorted(needed | {BASE_WINDOW_MIN, slo.period_min})


def rules(slo: Slo) -> dict[str, Any]:
    """The rule file. One group, since its rules are evaluated in order and each reads what those before it have just recorded."""
    group = {"name": f"{slo.service}-{slo.name}", "interval": EVALUATED_EVERY, "rules": [*_records(slo), *_alerts(slo)]}
    return {"groups": [group]}


def _records(slo: Slo) -> list[dict[str, Any]]:
    base = text(BASE_WINDOW_MIN)
    recorded = {
        GOOD: slo.over(slo.good, base),
        TOTAL: slo.over(slo.total, base),
        P99: f'histogram_quantile(0.99, sum by (le) (rate(keyahead_request_seconds_bucket{{trigger!="manual",outcome="ok"}}[{base}])))',
    }
    for window in windows(slo):
        good, total = GOOD + slo.selector, TOTAL + slo.selector
        if window != BASE_WINDOW_MIN:
            good, total = f"sum_over_time({good}[{text(window)}])", f"sum_over_time({total}[{text(window)}])"
        # Without traffic there is no ratio, rather than one of 0/0.
        recorded[error_ratio(window)] = f"1 - {good} / ({total} > 0)"
    recorded[BUDGET_LEFT] = f"1 - {error_ratio(slo.period_min)}{slo.selector} / {slo.budget}"
    labels = {"slo": slo.name, "service": slo.service}
    return [{"record": name, "expr": expression, "labels": labels} for name, expression in recorded.items()]


def _alerts(slo: Slo) -> list[dict[str, Any]]:
    alerts = [_alert(slo, burn.name, burn.severity, burn.after, _burning(slo, burn), burn.summary) for burn in slo.burns]
    late = (
        f"{P99}{slo.selector} > {slo.objective_s}\n"
        f"and {TOTAL}{slo.selector} * {60 * BASE_WINDOW_MIN} >= {MIN_CALLS}"
    )  # fmt: skip
    summary = f"p99 of the completions asked for while typing has been above {slo.objective_s * 1000:.0f} ms for {_LATE_MIN} minutes."
    return [*alerts, _alert(slo, "KeyaheadP99AboveObjective", "ticket", text(_LATE_MIN), late, summary)]


def _burning(slo: Slo, burn: Burn) -> str:
    over = f"{slo.selector} > {burn.factor} * {slo.budget}"
    return f"{error_ratio(burn.long_min)}{over}\nand {error_ratio(burn.short_min)}{over}"


def _alert(slo: Slo, name: str, severity: str, after: str, expression: str, summary: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": after,
        "labels": {"severity": severity, "slo": slo.name, "service": slo.service},
        "annotations": {"summary": summary, "runbook": f"docs/slo.md#{name.lower()}"},
    }
