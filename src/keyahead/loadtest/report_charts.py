"""The pictures of a report, each a pure function of what it shows; nothing to show is no picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keyahead.loadtest.cost import HOURS_PER_MONTH
from keyahead.loadtest.judge import Outcome, Record
from keyahead.loadtest.report_data import PROMISE_MS, SOURCES, Drafts, Ramp, Sources, System, answered_within, is_slow
from keyahead.loadtest.report_svg import Chart, Scale, milliseconds

_TOP, _BOTTOM = 26.0, 24.0
"""Room above and below what is drawn: for the topmost label and for those of the axis."""
_LINE = 17.0
"""Pixels between two lines of labels."""
_DOTS = 3000
"""Of requests in time, and of slow ones, at most; more would only be drawn over one another."""


def look_of(number: int, *, simulated: bool) -> str:
    """Classes of a system's colour and stroke: keyahead is 0."""
    return f"system s{number % 6}{' simulated' if simulated else ''}"


def _height(chart: Chart, part: float) -> float:
    """The y of a part of what there is room for: 0 is the axis, 1 the top."""
    base = chart.height - _BOTTOM
    return base - part * (base - _TOP)


def distribution(systems: Sequence[System]) -> str:
    """How many requests were answered within a time, for each system; with the promise."""
    curves = [(number, system, points) for number, system in enumerate(systems) if (points := answered_within(system.records))]
    if not curves:
        return ""
    chart = Chart(340, "Share of requests answered within a time: " + "; ".join(_in_words(system) for _, system, _ in curves))
    scale = Scale.around([points[round((len(points) - 1) * part)][0] for _, _, points in curves for part in (0.005, 0.995)])
    base, promise = _height(chart, 0), 100 * scale.at(PROMISE_MS)
    chart.box((0, promise), (_TOP, base), "kept")
    for part in (0, 0.25, 0.5, 0.75, 1):
        chart.level(_height(chart, part), f"{part:.0%}")
    for mark in scale.marks:
        if mark != PROMISE_MS:
            chart.text(100 * scale.at(mark), chart.height - 6, milliseconds(mark), "" if mark in scale.tens else "roomy")
    chart.line((promise, 10), (promise, base), "promise")
    chart.text(promise, chart.height - 6, "200 ms", "promise")
    for number, system, points in reversed(curves):
        drawn = [(100 * scale.at(points[0][0]), base), *((100 * scale.at(value), _height(chart, share)) for value, share in points)]
        drawn.append((100.0, drawn[-1][1]))
        look = look_of(number, simulated=system.simulated)
        chart.path(drawn, look)
        chart.path(drawn, "touch", _in_words(system))
    _name(chart, promise, [(number, system, _height(chart, system.in_time or 0.0)) for number, system, _ in curves])
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

    def place(record: Record) -> tuple[float, float]:
        return 100 * min(1.0, record.at_s / duration_s), _height(chart, scale.at(record.latency_s * 1000))

    _levels(chart, scale)
    _span(chart, duration_s)
    some = _thinned(quick)
    for name in dict.fromkeys(map(_origin, some)):
        chart.dots([place(record) for record in some if _origin(record) == name], source_look(name), SOURCES.get(name, name))
    if slow:
        chart.dots(list(map(place, _thinned(slow))), "slow", "Slow or failed")
    return chart.svg()


def _levels(chart: Chart, scale: Scale) -> None:
    """The upright axis of milliseconds, with the promise."""
    for mark in scale.tens:
        chart.level(_height(chart, scale.at(mark)), milliseconds(mark))
    chart.level(_height(chart, scale.at(PROMISE_MS)), "200 ms", "promise")


def _span(chart: Chart, duration_s: float) -> None:
    """The axis of time."""
    chart.text(0, chart.height - 6, "0 s")
    chart.text(100, chart.height - 6, f"{duration_s:,.0f} s")


def _thinned(records: Sequence[Record]) -> Sequence[Record]:
    """All, or every n-th of very many."""
    return records[:: max(1, -(-len(records) // _DOTS))]


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
    _span(chart, duration_s)
    return chart.svg()


def drafts(found: Drafts, duration_s: float) -> str:
    """How many tokens were guessed over time, and how many of them were right."""
    counts = list(zip(found.right, found.wrong, strict=True))
    chart = Chart(110, f"Draft tokens over time: {found.total:,.0f}, of which {percent(found.right_share)} were right")
    base, top = chart.height - _BOTTOM, 4.0
    most = max(right + wrong for right, wrong in counts)
    for number, (right, wrong) in enumerate(counts):
        x = (100 * number * found.bucket_s / duration_s, 100 * min(duration_s, (number + 1) * found.bucket_s) / duration_s)
        middle, high = (base - (base - top) * count / most for count in (right, right + wrong))
        chart.box(x, (middle, base), "area right")
        chart.box(x, (high, middle), "area wrong")
        chart.box(x, (top, base), "touch", f"from {number * found.bucket_s:.0f} s: {right + wrong:.0f} guessed, {right:.0f} right")
    _span(chart, duration_s)
    return chart.svg()


def objective(case: Mapping[str, Any], *, at_least: bool) -> str:
    """A value with its interval, beside the bound: the part that is allowed is tinted."""
    value, bound, high = case["value"], case["bound"], case["high"]
    if value is None:
        return ""
    end = 1.0 if at_least else max(2.5 * bound, 1.1 * value, 1.1 * (high or 0.0)) or 1.0
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
    most = ramp.points[-1].typists

    def place(typists: int, value: float) -> tuple[float, float]:
        return 100 * (typists - 0.5) / most, _height(chart, scale.at(value))

    chart.box((0, 100 * ramp.capacity / most), (_TOP, _height(chart, 0)), "kept")
    _levels(chart, scale)
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
    servers = 2
    most = servers * carried
    highest = max(api * most, server * servers) or 1.0
    chart = Chart(240, f"Monthly cost for up to {most} developers: API {money(api * most)}, own servers {money(server * servers)}")

    def place(developers: float, price: float) -> tuple[float, float]:
        return 100 * developers / most, _height(chart, price / highest)

    for part in (0, 0.5, 1):
        chart.level(_height(chart, part), money(part * highest))
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
