"""How a load test looks in the terminal: live figures while it runs, then tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from keyahead.loadtest.compare import Change
from keyahead.loadtest.verdict import Status, Verdict

_STYLES = {
    Status.PASS: "green",
    Status.FAIL: "red",
    Status.INCONCLUSIVE: "yellow",
    Status.INVALID: "yellow",
    Status.NOT_MEASURED: "dim",
}


@contextmanager
def live(console: Console, name: str, duration_s: float) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Shows the figures of the last seconds while a run goes on; says only what begins where there is no terminal."""
    if not console.is_terminal:
        console.print(f"{name}: typing for {duration_s:.0f} s")
        yield lambda _: None
        return
    with Live(Text(f"{name}: making the keys"), console=console, auto_refresh=False, transient=True) as screen:
        yield lambda figures: screen.update(_line(name, duration_s, figures), refresh=True)


def _line(name: str, duration_s: float, figures: Mapping[str, Any]) -> Text:
    latency = figures["latency_ms"]
    parts = (
        f"{name}: {min(figures['now_s'], duration_s):.0f} of {duration_s:.0f} s",
        f"{figures['asked'] / figures['duration_s']:.1f} requests/s",
        f"p50 {_ms(latency['p50'])} ms, p99 {_ms(latency['p99'])} ms",
        f"{figures['slow']} of {figures['eligible']} slow",
        f"{_percent(figures['useful_share'])} of characters shown in time",
    )
    return Text("   ".join(parts) + "   (last 15 s)")


def systems(results: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each system that was asked."""
    heads = ("system", "requests", "p50 ms", "p99 ms", "within 200 ms", "before next key", "failed", "useful", "useful/min", "predicted")
    table = Table(*heads)
    for result in results:
        figures = result["figures"]
        asked, typed = figures["asked"], figures["typed_characters"]
        table.add_row(
            result["system"],
            str(asked),
            _ms(figures["latency_ms"]["p50"]),
            _ms(figures["latency_ms"]["p99"]),
            _share(figures["eligible"] - figures["slow"], figures["eligible"]),
            _share(figures["painted"], asked),
            str(figures["outcomes"].get("failed", 0)),
            _percent(figures["useful_share"]),
            f"{figures['useful_characters_per_minute']:.0f}",
            _share(figures["predicted_characters"], typed),
        )
    return table


def phases(result: Mapping[str, Any]) -> Table:
    """One row for each phase of a run."""
    table = Table("phase", "typists", "requests", "p50 ms", "p99 ms", "slow", "useful")
    for phase in result["phases"]:
        figures = phase["figures"]
        latency = figures["latency_ms"]
        counts = (str(figures["asked"]), _ms(latency["p50"]), _ms(latency["p99"]), str(figures["slow"]), _percent(figures["useful_share"]))
        table.add_row(phase["name"], str(phase["typists"]), *counts)
    return table


def verdict(found: Verdict) -> Table:
    """One row for each objective."""
    table = Table.grid("", "", "", padding=(0, 2))
    for case in found.cases:
        table.add_row(Text(case.status.value, _STYLES[case.status]), case.name, case.explanation)
    table.add_row(Text(found.status.value.upper(), _STYLES[found.status]), "all together", "")
    return table


def costs(cost: Mapping[str, Any]) -> Table:
    """What an API and a server cost, in the currency of the prices."""
    table = Table("", "1,000 suggestions", "developer and month")
    table.add_row("API", f"{cost['api_per_1000']:.4g}", f"{cost['api_per_developer_month']:.4g}")
    server = (cost["server_per_1000"], cost["server_per_developer_month"])
    table.add_row("own server", *("-" if each is None else f"{each:.4g}" for each in server))
    developers = cost["break_even_developers"]
    table.caption = "The API stays cheaper." if developers is None else f"From {developers} developers on, own servers are cheaper."
    return table


def changes(found: Sequence[Change]) -> Table:
    """One row for each figure that was compared."""
    table = Table("figure", "before", "after", "ratio", "95 % confident", "")
    for change in found:
        mark = Text("regression", "red") if change.regression else Text("")
        between = f"{change.low:.3f} to {change.high:.3f}"
        table.add_row(change.name, f"{change.before:.3g}", f"{change.after:.3g}", f"{change.ratio:.3f}", between, mark)
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _share(count: int, total: int) -> str:
    return _percent(count / total if total else None)
