"""The pictures of a report."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest import report_charts as charts
from keyahead.loadtest.cost import Prices, Usage, cost
from keyahead.loadtest.judge import Outcome, Record
from keyahead.loadtest.report_data import Drafts, Point, Ramp, gather, sources
from tests.loadtest.results import result, whole

CASE = {"value": 0.004, "bound": 0.01, "low": 0.001, "high": 0.02, "status": "inconclusive"}


def drawn(svg: str, tag: str) -> list[ET.Element]:
    """Its elements of a kind."""
    return ET.fromstring(svg).findall(f".//{tag}")


@given(st.lists(st.floats(43, 333), max_size=17).map(sorted))
def test_labels_do_not_lie_on_one_another(wanted: list[float]) -> None:
    """However close they are wanted, they are a line apart, in their order, and inside the picture."""
    places = charts.apart(wanted, 311)
    assert len(places) == len(wanted)
    assert all(later - sooner >= 16.99 for sooner, later in itertools.pairwise(places))
    assert all(0 < place <= 311 for place in places)


def test_a_curve_crosses_the_promise_at_its_share() -> None:
    """A dot at the line, with the share beside it; hovering tells the percentiles."""
    svg = charts.distribution(gather([whole(result([100.0] * 90 + [900.0] * 10))]).systems)
    (dot,) = drawn(svg, "circle")
    assert (dot.findtext("title") or "").startswith("keyahead: 90.0% within 200 ms, p50 100 ms, p99 900 ms")
    assert "90.0%" in [text.text for text in drawn(svg, "text")]


def test_every_request_is_a_dot_and_slow_ones_are_never_left_out() -> None:
    """Of very many in time, some stand for all."""
    made = [
        Record(0, n, n / 100, n / 100, n / 100 + (0.3 if n % 1000 == 0 else 0.1), Outcome.ANSWERED, False, "engine") for n in range(9000)
    ]
    quick, slow = drawn(charts.requests(made, 90.0), "path")
    assert quick.attrib["d"].count("h0") in range(2900, 3001)
    assert slow.attrib["d"].count("h0") == 9


def test_origins_fill_each_part_that_has_answers() -> None:
    """The boxes of a part are as high together as the picture; a part without answers stays empty, and says so."""
    made = [Record(0, n, 1.5 * n, 1.5 * n, 1.5 * n + 0.1, Outcome.ANSWERED, False, ("memory", "engine")[n % 2]) for n in range(4)]
    boxes = drawn(charts.origins(sources(made, 8.0), 8.0), "rect")
    heights: dict[str, float] = {}
    for box in boxes:
        if "area" in box.attrib["class"]:
            heights[box.attrib["x"]] = heights.get(box.attrib["x"], 0.0) + float(box.attrib["height"])
    assert list(heights.values()) == pytest.approx([122.0] * 4, abs=0.2)
    assert [box.findtext("title") for box in boxes if box.attrib["class"] == "touch"][-1] == "from 7 s: no answers"


def test_capacity_marks_what_is_not_carried() -> None:
    """A full dot for each phase that is carried, an empty one for the others, none for one without requests."""
    points = [Point(n, {"p50": 50.0, "p99": 60.0 * n}, 0.6, n < 3) for n in (1, 2, 3, 4)]
    svg = charts.capacity(Ramp([*points, Point(5, {"p50": None, "p99": None}, None, False)], 2))
    assert [dot.attrib["class"] for dot in drawn(svg, "circle")] == ["system s0", "system s0", "slow", "slow"]
    assert float(drawn(svg, "rect")[0].attrib["width"].rstrip("%")) == 40


@pytest.mark.parametrize(
    "case",
    [
        CASE,
        {**CASE, "value": 5.0, "low": None, "high": None},
        {**CASE, "value": 0.0, "low": 0.0, "high": 1.0},
        {**CASE, "value": 0.0, "bound": 0.0, "high": None},
    ],
)
@pytest.mark.parametrize("at_least", [True, False])
def test_an_objective_is_drawn_within_its_bar(case: dict[str, Any], at_least: bool) -> None:
    """Value, interval and bound lie between its ends."""
    svg = charts.objective(case, at_least=at_least)
    for box in drawn(svg, "rect"):
        assert float(box.attrib["x"].rstrip("%")) >= 0
        assert float(box.attrib["x"].rstrip("%")) + float(box.attrib["width"].rstrip("%")) <= 100.01
    assert 0 <= float(drawn(svg, "circle")[0].attrib["cx"].rstrip("%")) <= 100


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_all_is_said_only_of_all(count: int, total: int) -> None:
    """9,999 of 10,000 are not 100 %, and one is not 0 %."""
    share = min(count, total) / total
    shown = charts.percent(share)
    assert (shown == "100%") == (share == 1)
    assert (shown == "0%") == (share == 0)


def test_the_break_even_is_marked_where_the_lines_meet() -> None:
    """A dot at its developers; without one there is no dot."""
    cheap, dear = (cost(Prices(1.0, 4.0, hour, 40), Usage(1000, 10, 2500, 20)).to_json() for hour in (0.5, 50.0))
    (dot,) = drawn(charts.costs(cheap), "circle")
    assert dot.attrib["cx"] == f"{100 * cheap['break_even_developers'] / 40:.2f}%"
    assert drawn(charts.costs(dear), "circle") == []
    assert charts.costs({**cheap, "usage": {**cheap["usage"], "capacity": 0}}) == ""


def test_drafts_are_as_high_as_they_were_many() -> None:
    """Right ones stand on the axis and wrong ones on them; hovering tells the numbers."""
    svg = charts.drafts(Drafts(5, [10.0, 0.0, 20.0], [10.0, 0.0, 60.0]), 15)
    heights = {
        look: [float(box.get("height", 0)) for box in drawn(svg, "rect") if box.get("class") == f"area {look}"]
        for look in ("right", "wrong")
    }
    assert heights["right"] == pytest.approx([heights["right"][2] / 2, 0, heights["right"][2]], abs=0.1)
    assert heights["wrong"][2] == pytest.approx(3 * heights["right"][2], abs=0.2)
    assert "from 10 s: 80 guessed, 20 right" in svg
