"""What the pictures of a report are made of."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.report_svg import Chart, Scale


@given(st.lists(st.floats(0.01, 300_000), max_size=20))
def test_a_scale_holds_its_values_and_the_promise(values: list[float]) -> None:
    """From 0 to 1 in order, with marks at both ends."""
    scale = Scale.around(values)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)
    assert 0 < scale.at(200) < 1
    assert scale.marks[0] == scale.low


@pytest.mark.parametrize(("x", "anchor", "dx"), [(10.0, "start", "10"), (59.0, "start", "10"), (74.0, "end", "-10"), (90.0, "end", "-10")])
def test_a_name_stands_where_there_is_room(x: float, anchor: str, dx: str) -> None:
    """To the right of its curve, near the right edge to the left; what is long is marked, so that a narrow page can leave it out."""
    chart = Chart(100, "a picture")
    chart.name(x, 50, "90%", "s0", "a system with a long name")
    (label,) = ET.fromstring(chart.svg()).findall(".//text")
    assert (label.attrib["text-anchor"], label.attrib["dx"]) == (anchor, dx)
    assert label[0].attrib["class"] == "roomy"


def test_what_is_written_is_escaped() -> None:
    """In a label, a title and the picture's name."""
    text = "</text><script>\" onload='x'"
    chart = Chart(100, text)
    chart.text(50, 50, text)
    chart.dot(50, 50, "s0", text)
    made = ET.fromstring(chart.svg())
    assert {element.tag for element in made.iter()} == {"svg", "g", "text", "circle", "title"}
    assert made.attrib["aria-label"] == made.findtext(".//text") == made.findtext(".//title") == text
