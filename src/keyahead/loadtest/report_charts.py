"""The pictures of a report, as SVG that stands in an HTML page.

A chart is as wide as its place and of a fixed height. x is in percent, y in pixels, and curves lie in a frame of their own that alone is
stretched; so letters, dots and strokes look the same at every width. Colours are classes, which the page's style defines for light and
dark. ElementTree escapes what is written.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET  # only written, never parsed
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyahead.loadtest.cost import HOURS_PER_MONTH
from keyahead.loadtest.judge import Outcome, Record
from keyahead.loadtest.report_data import PROMISE_MS, SOURCES, Ramp, Sources, System, answered_within, is_slow

Points = Sequence[tuple[float, float]]
"""x in percent, y in pixels."""
_TOP, _BOTTOM = 26.0, 24.0
"""Room above and below what is drawn: for the topmost label and for those of the axis."""
_LINE = 17.0
"""Pixels between two lines of labels."""
_SHORT = 12
"""Letters for which there is always room beside a curve."""
_DOTS = 3000
"""Of requests in time; more would only be drawn over one another."""


class Chart:
    """An SVG that grows by what is drawn into it."""

    def __init__(self, height: int, label: str) -> None:
        self.height = height
        self._svg = ET.Element("svg", {"class": "chart", "width": "100%", "height": str(height), "role": "img", "aria-label": label})
        size = {"width": "100%", "height": str(height), "viewBox": f"0 0 100 {height}", "preserveAspectRatio": "none"}
        self._back = ET.SubElement(self._svg, "g")
        self._stretched = ET.SubElement(self._svg, "svg", size)
        self._front = ET.SubElement(self._svg, "g")

    def path(self, points: Points, look: str, title: str = "", *, closed: bool = False) -> None:
        """A curve, or an area."""
        steps = " L".join(f"{x:.2f} {y:.1f}" for x, y in points)
        self._titled(ET.SubElement(self._stretched, "path", {"d": f"M{steps}{' Z' if closed else ''}", "class": look}), title)

    def dots(self, points: Points, look: str, title: str = "") -> None:
        """Many small ones: lines without length, whose ends are round."""
        steps = "".join(f"M{x:.2f} {y:.1f}h0" for x, y in points)
        self._titled(ET.SubElement(self._stretched, "path", {"d": steps, "class": f"dots {look}"}), title)

    def dot(self, x: float, y: float, look: str, title: str = "") -> None:
        """A large one."""
        self._titled(ET.SubElement(self._front, "circle", {"cx": f"{x:.2f}%", "cy": f"{y:.1f}", "r": "5", "class": look}), title)

    def line(self, start: tuple[float, float], end: tuple[float, float], look: str) -> None:
        """A straight one."""
        ends = {"x1": f"{start[0]:.2f}%", "y1": f"{start[1]:.1f}", "x2": f"{end[0]:.2f}%", "y2": f"{end[1]:.1f}"}
        ET.SubElement(self._back, "line", {**ends, "class": look})

    def box(self, x: tuple[float, float], y: tuple[float, float], look: str, title: str = "") -> None:
        """An upright rectangle, from left to right and from top to bottom."""
        size = {"x": f"{x[0]:.4f}%", "width": f"{x[1] - x[0]:.4f}%", "y": f"{y[0]:.1f}", "height": f"{y[1] - y[0]:.1f}"}
        self._titled(ET.SubElement(self._back, "rect", {**size, "class": look}), title)

    def text(self, x: float, y: float, text: str, look: str = "") -> None:
        """A label, centred but at the ends."""
        self._text(x, y, 0, "start" if x < 4 else "end" if x > 96 else "middle", look).text = text

    def name(self, x: float, y: float, text: str, look: str, owner: str = "") -> None:
        """A label beside a curve, on the side where there is room; a narrow page leaves out a long owner."""
        side = -1 if x > 75 else 1
        label = self._text(x, y, 10 * side, "end" if side < 0 else "start", f"{look} name")
        label.text = text
        if owner:
            ET.SubElement(label, "tspan", {"class": "roomy" if len(owner) > _SHORT else ""}).text = f" {owner}"

    def _text(self, x: float, y: float, shift: int, anchor: str, look: str) -> ET.Element:
        attributes = {"x": f"{x:.2f}%", "y": f"{y:.1f}", "dx": str(shift), "text-anchor": anchor, "class": look}
        return ET.SubElement(self._front, "text", attributes)

    def level(self, y: float, text: str, look: str = "grid") -> None:
        """A line across, with its label standing on it at the left."""
        self.line((0, y), (100, y), look)
        self.text(0, y - 5, text, look)

    def svg(self) -> str:
        """The document."""
        return ET.tostring(self._svg, encoding="unicode")

    @staticmethod
    def _titled(element: ET.Element, title: str) -> None:
        if title:
            ET.SubElement(element, "title").text = title


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic axis of milliseconds, whose ends and marks are 1, 2 or 5 times a power of ten."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float]) -> Scale:
        """Wide enough for these, and for the promise in any case."""
        lowest, highest = max(1.0, min((*values, 20.0))), max((*values, 1000.0))
        marks = [base * 10.0**power for power in range(6) for base in (1, 2, 5)]
        return cls(max(mark for mark in marks if mark <= lowest), min((mark for mark in marks if mark >= highest), default=highest))

    def at(self, value: float) -> float:
        """From 0 to 1; what lies outside is put at the end."""
        inside = min(self.high, max(self.low, value))
        return math.log(inside / self.low) / math.log(self.high / self.low)

    @property
    def tens(self) -> list[float]:
        """The powers of ten for where room is scarce, without 100, which stands too near to the promise."""
        return [mark for mark in self.marks if f"{mark:g}".startswith("1") and mark != 100]

    @property
    def marks(self) -> list[float]:
        """From end to end."""
        return [base * 10.0**power for power in range(6) for base in (1, 2, 5) if self.low <= base * 10.0**power <= self.high]


def milliseconds(value: float) -> str:
    """As an axis has it."""
    return f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"


def look_of(number: int, *, simulated: bool) -> str:
    """Classes of a system's colour and stroke: keyahead is 0."""
    return f"system s{number % 6}{' simulated' if simulated else ''}"


def distribution(systems: Sequence[System]) -> str:
    """How many requests were answered within a time, for each system; with the promise."""
    curves = [(number, system, points) for number, system in enumerate(systems) if (points := answered_within(system.records))]
    if not curves:
        return ""
    chart = Chart(340, "Share of requests answered within a time: " + "; ".join(_in_words(system) for _, system, _ in curves))
    scale = Scale.around([points[round((len(points) - 1) * part)][0] for _, _, points in curves for part in (0.005, 0.995)])
    base = chart.height - _BOTTOM

    def y(share: float) -> float:
        return base - share * (base - _TOP)

    promise = 100 * scale.at(PROMISE_MS)
    chart.box((0, promise), (_TOP, base), "kept")
    for part in (0, 0.25, 0.5, 0.75, 1):
        chart.level(y(part), f"{part:.0%}")
    for mark in scale.marks:
        if mark != PROMISE_MS:
            chart.text(100 * scale.at(mark), chart.height - 6, milliseconds(mark), "" if mark in scale.tens else "roomy")
    chart.line((promise, 10), (promise, base), "promise")
    chart.text(promise, chart.height - 6, "200 ms", "promise")
    for number, system, points in reversed(curves):
        drawn = [(100 * scale.at(points[0][0]), base), *((100 * scale.at(value), y(share)) for value, share in points)]
        drawn.append((100.0, y(points[-1][1])))
        look = look_of(number, simulated=system.simulated)
        chart.path(drawn, look)
        chart.path(drawn, "touch", _in_words(system))
    _name(chart, promise, [(number, system, y(system.in_time or 0.0)) for number, system, _ in curves])
    return chart.svg()


def _name(chart: Chart, x: float, crossings: Sequence[tuple[int, System, float]]) -> None:
    """Where curves cross the promise: the share, and whose it is."""
    in_order = sorted(crossings, key=lambda each: each[2])
    places = apart([y + _LINE for _, _, y in in_order], chart.height - _BOTTOM - 5)
    for (number, system, y), place in zip(in_order, places, strict=True):
        look = look_of(number, simulated=system.simulated)
        chart.dot(x, y, look, _in_words(system))
        chart.name(x, place, percent(system.in_time), look, clipped(system.name))


def apart(wanted: Sequence[float], lowest: float) -> list[float]:
    """Labels, from the top, moved so that they are a line apart: first down, then up from the lowest place there is."""
    places: list[float] = []
    for y in wanted:
        places.append(max(y, places[-1] + _LINE) if places else y)
    for number in reversed(range(len(places))):
        places[number] = min(places[number], lowest)
        lowest = places[number] - _LINE
    return places


def _in_words(system: System) -> str:
    latency = system.figures["latency_ms"]
    return f"{system.name}: {percent(system.in_time)} within 200 ms, p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms"


def clipped(name: str) -> str:
    """Short enough for a label; the tables have it all."""
    short = name.partition(" (")[0]
    return short if len(short) <= 28 else f"{short[:27]}…"


def percent(share: float | None) -> str:
    """With a decimal; all and nothing only where nothing is missing, or nothing is there."""
    if share is None:
        return "-"
    rounded = f"{share:.1%}"
    if rounded == "100.0%":
        return "100%" if share == 1 else "99.9%"
    return "0%" if share == 0 else rounded


def requests(records: Sequence[Record], duration_s: float) -> str:
    """Every request as a dot: when it was asked for, how long it took, and where its answer came from."""
    shown = [record for record in records if not record.follow_up]
    slow, quick = [each for each in shown if is_slow(each)], [each for each in shown if not is_slow(each)]
    if not shown:
        return ""
    chart = Chart(280, f"Latency of {len(shown):,} requests over {duration_s:.0f} seconds; {len(slow):,} were slow or failed")
    scale = Scale.around([record.latency_s * 1000 for record in shown])
    base = chart.height - _BOTTOM

    def place(record: Record) -> tuple[float, float]:
        return 100 * min(1.0, record.at_s / duration_s), base - (base - _TOP) * scale.at(record.latency_s * 1000)

    for mark in scale.tens:
        chart.level(base - (base - _TOP) * scale.at(mark), milliseconds(mark))
    promise = base - (base - _TOP) * scale.at(PROMISE_MS)
    chart.level(promise, "200 ms", "promise")
    chart.text(0, chart.height - 6, "0 s")
    chart.text(100, chart.height - 6, f"{duration_s:,.0f} s")
    some = quick[:: max(1, -(-len(quick) // _DOTS))]
    for name in dict.fromkeys(map(_origin, some)):
        chart.dots([place(record) for record in some if _origin(record) == name], source_look(name), SOURCES.get(name, name))
    if slow:
        chart.dots([place(record) for record in slow[-_DOTS:]], "slow", "Slow or failed")
    return chart.svg()


def _origin(record: Record) -> str:
    """Where an answer came from, or why there is none."""
    return record.detail if record.outcome is Outcome.ANSWERED else record.outcome.value


def source_look(name: str) -> str:
    """Class of the colour of answers from there."""
    return f"source-{name}" if name in (*SOURCES, *(outcome.value for outcome in Outcome)) else "source-other"


def origins(found: Sources, duration_s: float) -> str:
    """Where answers came from over time, as shares of each bucket's answers."""
    if not found.totals:
        return ""
    chart = Chart(150, "Where answers came from over time")
    base, top = chart.height - _BOTTOM, 4.0
    for number, counts in enumerate(found.counts):
        total, low = sum(counts.values()), base
        x = [100 * min(duration_s, (number + step) * found.bucket_s) / duration_s for step in (0, 1)]
        for name in found.names:
            if counts.get(name):
                high = low - (base - top) * counts[name] / total
                chart.box((x[0], x[1]), (high, low), f"area {source_look(name)}")
                low = high
        shares = ", ".join(f"{SOURCES.get(name, name)} {counts[name] / total:.0%}" for name in found.names if counts.get(name))
        chart.box((x[0], x[1]), (top, base), "touch", f"from {number * found.bucket_s:.0f} s: {shares or 'no answers'}")
    chart.text(0, chart.height - 6, "0 s")
    chart.text(100, chart.height - 6, f"{duration_s:,.0f} s")
    return chart.svg()


def objective(case: Mapping[str, Any], *, at_least: bool) -> str:
    """A value with its interval, beside the bound: the part that is allowed is tinted."""
    value, bound, high = case["value"], case["bound"], case["high"]
    if value is None:
        return ""
    end = 1.0 if at_least else max(2.5 * bound, 1.1 * value, 1.1 * (high or 0.0))
    chart = Chart(24, f"{value:.4g}, bound {bound:.4g}")
    chart.box((0, 100), (9, 15), "track")
    chart.box((100 * bound / end, 100) if at_least else (0, 100 * bound / end), (9, 15), "allowed")
    if high is not None:
        chart.box((100 * case["low"] / end, 100 * high / end), (10, 14), "interval", f"95 % confident: {case['low']:.2%} to {high:.2%}")
    chart.line((100 * bound / end, 3), (100 * bound / end, 21), "bound")
    chart.dot(100 * min(1.0, value / end), 12, case["status"].replace(" ", "-"))
    return chart.svg()


def capacity(ramp: Ramp) -> str:
    """Latency by the number of typists."""
    known = [point for point in ramp.points if point.latency_ms["p99"] is not None]
    if not known:
        return ""
    chart = Chart(280, "p99 by typists: " + "; ".join(f"{point.typists}: {point.latency_ms['p99']:.0f} ms" for point in known))
    scale = Scale.around([value for point in known for value in (point.latency_ms["p50"], point.latency_ms["p99"])])
    base, most = chart.height - _BOTTOM, ramp.points[-1].typists

    def place(typists: int, value: float) -> tuple[float, float]:
        return 100 * (typists - 0.5) / most, base - (base - _TOP) * scale.at(value)

    chart.box((0, 100 * ramp.capacity / most), (_TOP, base), "kept")
    for mark in scale.tens:
        chart.level(place(1, mark)[1], milliseconds(mark))
    chart.level(place(1, PROMISE_MS)[1], "200 ms", "promise")
    for percentile, look in (("p50", "system s0 thin"), ("p99", "system s0")):
        points = [place(point.typists, point.latency_ms[percentile]) for point in known]
        chart.path(points, look)
        chart.text(points[-1][0], points[-1][1] - 12, percentile, f"{look} name")
    for point in known:
        title = f"{point.typists} typists: p99 {point.latency_ms['p99']:.0f} ms, {percent(point.useful_share)} of characters useful"
        chart.dot(*place(point.typists, point.latency_ms["p99"]), "system s0" if point.carried else "slow", title)
    for point in ramp.points[:: max(1, most // 12)]:
        chart.text(100 * (point.typists - 0.5) / most, chart.height - 6, str(point.typists))
    return chart.svg()


def costs(cost: Mapping[str, Any]) -> str:
    """What a month costs by the number of developers: an API grows with each, servers come one by one."""
    carried, api = cost["usage"]["capacity"], cost["api_per_developer_month"]
    server = cost["prices"]["per_server_hour"] * HOURS_PER_MONTH
    if not carried:
        return ""
    most = max(2 * carried, 2 * (cost["break_even_developers"] or 0))
    servers = -(-most // carried)
    highest = max(api * most, server * servers) or 1.0
    chart = Chart(240, f"Monthly cost for up to {most} developers: API {money(api * most)}, own servers {money(server * servers)}")
    base = chart.height - _BOTTOM

    def place(developers: float, price: float) -> tuple[float, float]:
        return 100 * developers / most, base - (base - _TOP) * price / highest

    for part in (0, 0.5, 1):
        chart.level(place(0, part * highest)[1], money(part * highest))
    for developers in (carried, most):
        chart.text(100 * developers / most, chart.height - 6, f"{developers} developers")
    steps = [place(carried * (number + step), server * (number + 1)) for number in range(servers) for step in (0, 1)]
    chart.path(steps, "system s0")
    chart.path([place(0, 0), place(most, api * most)], "system s1")
    if even := cost["break_even_developers"]:
        chart.dot(*place(even, api * even), "system s1", f"From {even} developers on, own servers are cheaper")
    chart.text(steps[-1][0], steps[-1][1] + _LINE, "own servers", "system s0 name")
    chart.text(98, place(most * 0.98, api * most)[1] - 8, "API", "system s1 name")
    return chart.svg()


def money(value: float) -> str:
    """Three digits that count, in whatever currency the prices are."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
