"""Prometheus' rules and Grafana's dashboard say what deploy/slo.yaml says, and every alert fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import slo_rules
import yaml

from keyahead.service import sli

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "keyahead.rules.yaml"
CASES = sorted((DEPLOY / "prometheus" / "tests").glob("*.yaml"))
SLO = slo_rules.read(DEPLOY / "slo.yaml")
ALERTS = [rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"] if "alert" in rule]


def run(*command: str | Path) -> str:
    """A program's output; fails with it unless it ends well."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_the_rules(prometheus: Path) -> None:
    """Reads, in promtool, every one of them."""
    count = len(yaml.safe_load(RULES.read_text())["groups"][0]["rules"])
    assert f"SUCCESS: {count} rules found" in run(prometheus / "promtool", "check", "rules", RULES)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_alerts_fire_and_are_silent_as_the_case_says(prometheus: Path, case: Path) -> None:
    """Healthy, fast burn, slow burn, late p99, recovery and no traffic, minute by minute, in promtool."""
    assert "SUCCESS" in run(prometheus / "promtool", "test", "rules", case)


def test_every_alert_fires_in_some_case_and_has_a_runbook() -> None:
    """An alert nobody has seen fire, or does not know what to do about, is worth nothing."""
    groups = [group for case in CASES for group in yaml.safe_load(case.read_text())["tests"]]
    fired = {check["alertname"] for group in groups for check in group.get("alert_rule_test", ()) if check.get("exp_alerts")}
    assert fired == set(ALERTS)
    headings = {line.removeprefix("### ") for line in (ROOT / "docs" / "slo.md").read_text().splitlines() if line.startswith("### ")}
    assert set(ALERTS) <= headings


def test_prometheus_and_the_status_page_count_alike() -> None:
    """slo.yaml's queries name the outcomes, the objective and the target of service/sli.py."""
    assert SLO.objective_s == sli.OBJECTIVE_S
    assert SLO.target == sli.TARGET
    never, given_up = (frozenset(each.split("|")) for each in re.findall(r'outcome[!=]~"([^"]+)"', SLO.total))
    assert never == sli.NOT_OURS
    assert given_up == sli.GIVEN_UP
    assert not sli.eligible("ok", "manual")
    assert all('trigger!="manual"' in query for query in (SLO.good, SLO.total))


def test_the_windows_are_those_of_the_workbook() -> None:
    """14.4 times in 1 h and 5 min and 6 times in 6 h and 30 min page; 3 times in 1 d and 2 h and once in 3 d and 6 h are tickets."""
    found = [(burn.severity, burn.factor, slo_rules.text(burn.long_min), slo_rules.text(burn.short_min)) for burn in SLO.burns]
    assert found == [("page", 14.4, "1h", "5m"), ("page", 6, "6h", "30m"), ("ticket", 3, "1d", "2h"), ("ticket", 1, "3d", "6h")]


def test_panels_of_the_dashboard_can_be_told_apart() -> None:
    """Ids are unique, queries of a panel have different letters, and everything asks the data source of the variable."""
    panels = json.loads((DEPLOY / "grafana" / "keyahead.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 15
    for panel in panels:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel.get("targets", ()))
