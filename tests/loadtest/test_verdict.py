"""Whether a run shows that the objectives are met."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from keyahead.loadtest import junit, verdict
from keyahead.loadtest.verdict import EXIT_CODES, ObjectivesError, Status, Verdict, judge
from tests.loadtest.results import result

OURS = verdict.load()
CANCELS = {"cancelled": 10.0, "tokens_after": 20.0}


def statuses(found: Verdict) -> dict[str, Status]:
    """The status of each objective."""
    return {case.name: case.status for case in found.cases}


def test_a_good_run_passes() -> None:
    """All objectives are met, and the exit code is 0."""
    found = judge(result([50.0] * 700), OURS, CANCELS)
    assert set(statuses(found).values()) == {Status.PASS}
    assert EXIT_CODES[found.status] == 0


@pytest.mark.parametrize(
    ("run", "name", "status", "code"),
    [
        (result([50.0] * 650 + [260.0] * 50), "latency.p99", Status.FAIL, 1),
        (result([50.0] * 690 + [260.0] * 10), "latency.p99", Status.INCONCLUSIVE, 3),
        (result([50.0] * 100), "latency.p99", Status.INCONCLUSIVE, 3),
        (result([50.0] * 700, failed=60), "errors", Status.FAIL, 1),
        (result([50.0] * 700, useful_share=0.05), "useful", Status.FAIL, 1),
        (result([50.0] * 700, late_ms=30), "generator.lateness", Status.INVALID, 3),
        (result([50.0] * 700, lost=7), "generator.sent", Status.INVALID, 3),
        (result([300.0] * 700, late_ms=30), "generator.lateness", Status.INVALID, 3),
    ],
)
def test_each_objective_can_be_missed(run: dict[str, object], name: str, status: Status, code: int) -> None:
    """Slow, failing, useless and unsure runs are told apart; an invalid generator makes any other finding void."""
    found = judge(run, OURS, CANCELS)
    assert statuses(found)[name] is status
    assert (found.status, EXIT_CODES[found.status]) == (status, code)


def test_shares_have_an_interval() -> None:
    """Of 299 requests without a slow one, just under 1 % may be slow in truth; what is no sample has none."""
    cases = {case.name: case for case in judge(result([50.0] * 299), OURS, CANCELS).cases}
    assert cases["latency.p99"].low == 0
    assert cases["latency.p99"].high == pytest.approx(0.00997, abs=1e-5)
    assert (cases["cancel"].low, cases["generator.lateness"].high) == (None, None)


def test_cancels_are_judged_where_they_are_known() -> None:
    """More tokens than a chunk after a cancel fail; no metrics, or no cancels, are no failure."""
    run = result([50.0] * 700)
    assert statuses(judge(run, OURS, {"cancelled": 10.0, "tokens_after": 900.0}))["cancel"] is Status.FAIL
    for cancels in (None, {"cancelled": 0.0, "tokens_after": 0.0}):
        found = judge(run, OURS, cancels)
        assert (statuses(found)["cancel"], found.status) == (Status.NOT_MEASURED, Status.PASS)


def test_junit_has_a_case_for_each_objective() -> None:
    """With value and bound, and the explanation where it is not met."""
    found = judge(result([300.0] * 700, lost=7), OURS)
    suite = ET.fromstring(junit.to_xml(found, 100))
    assert {case.get("name") for case in suite} == set(statuses(found))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("6", "1", "1", "1")
    failure = suite.find("testcase[@name='latency.p99']/failure")
    assert failure is not None
    assert "700 of 700" in str(failure.get("message"))
    value = suite.find("testcase[@name='latency.p99']/properties/property[@name='value']")
    assert value is not None
    assert value.get("value") == "1.0"


def test_objectives_of_ones_own(tmp_path: Path) -> None:
    """A changed copy counts; what cannot be used is an error that says how to mend it."""
    source = (Path(verdict.__file__).parent / "objectives.toml").read_text()
    file = tmp_path / "objectives.toml"
    file.write_text(source.replace("least_share = 0.2", "least_share = 0.7"))
    assert judge(result([50.0] * 700), verdict.load(file)).status is Status.FAIL
    wrong = ("[latency", source.replace("= 0.01", "= 1.5"), source.replace("= 64", "= -1"), source.replace("= 20", "= 'x'"))
    for text, message in (*((text, "is not TOML") for text in wrong), (source.replace("[errors]", "[other]"), "lacks 'errors'")):
        file.write_text(text)
        with pytest.raises(ObjectivesError, match=message):
            verdict.load(file)
    with pytest.raises(ObjectivesError, match="cannot be read"):
        verdict.load(tmp_path / "none.toml")
