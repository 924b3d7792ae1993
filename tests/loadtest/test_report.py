"""The page and the Markdown that show a load test's result, the page in a real browser, too."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from keyahead.loadtest import report
from keyahead.loadtest.config import Kind, Target
from keyahead.loadtest.cost import Cost, Prices, Usage, cost
from keyahead.loadtest.shape import Shape
from tests.browser import CONTRAST, Browser
from tests.loadtest.results import TARGET, latencies, result, whole

CHAT = Target(Kind.CHAT, "http://127.0.0.1:1", "simulated chat (perfect answers)", simulated=True)
HOSTILE = "<script>alert(1)</script>\" onload='x' | @all **bold** [a](http://b) &amp; `c` \N{RIGHT-TO-LEFT OVERRIDE}"
OUTSIDE = """
[...document.querySelectorAll("svg text")].filter(each => {
  const label = each.getBoundingClientRect(), card = each.closest("section").getBoundingClientRect();
  return label.width && (label.left < card.left || label.right > card.right);
}).map(each => each.textContent)
"""
"""Labels of pictures that are cut off by their card's edge."""
ALL_DECODED = "Where answers came from: 0% needed no decode"
SECTIONS = {
    "How long people waited",
    "On the screen before the next key",
    "Answered within 200 ms",
    "Useful characters a minute",
    "Every request of keyahead",
    ALL_DECODED,
    "All figures",
    "How it was measured",
}


def priced(capacity: int = 4) -> Cost:
    """Of an API and a server."""
    return cost(Prices(0.25, 2.0, 0.2, 60.0), Usage(900, 12, 2500, capacity))


def full() -> list[dict[str, Any]]:
    """Results with everything that a report can show."""
    own, rival = result([*latencies(600, 1, 0.7), 450.0]), result(latencies(601, 2, 9), target=CHAT)
    own["records"]["stages_ms"] = {"decode": [20.0] * 601, "cache": [0.4] * 601}
    own["records"]["detail"][:100] = ["kept"] * 100
    ramp = result([*latencies(300, 3), *latencies(300, 4, 6)], shape=Shape.RAMP, typists=6)
    engine = {"at_s": [20.0, 60.0], "drafted": [40.0, 90.0], "accepted": [10.0, 45.0]}
    return [{**whole(own, rival), "engine": engine}, whole(ramp, capacity=3, cost=priced())]


class Page(HTMLParser):
    """What a browser would find: tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.headings: set[str] = set()
        self.words = ""
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data if self._in != "style" else ""
        if self._in == "h2" and data.strip():
            self.headings.add(data)


def test_the_page_has_all_parts_and_needs_nothing_else() -> None:
    """Verdict first, then every section; no script, no address, no other file."""
    text = report.html(full())
    page = Page(text)
    origins, drafts = "Where answers came from: 16.6% needed no decode", "Drafts: 50.0% of 90 guessed tokens were right"
    assert page.headings == SECTIONS - {ALL_DECODED} | {"Where the time went", "Capacity", "Cost", origins, drafts}
    assert "script" not in page.tags
    assert not page.attributes & {"src", "href", "onload", "onclick"}
    assert not re.search(r"https?://|@import|url\(", text)
    assert text.index("Promise kept") < text.index("How long people waited")


def test_the_numbers_are_those_of_the_result() -> None:
    """p50, p99, shares and counts stand there as the figures have them."""
    results = full()
    words = Page(report.html(results)).words
    for run in results[0]["systems"]:
        figures = run["figures"]
        assert f"{figures['latency_ms']['p50']:,.0f}" in words
        assert f"{figures['latency_ms']['p99']:,.0f}" in words
        assert f"{1 - figures['slow'] / figures['eligible']:.1%}" in words
        assert f"{figures['useful_share']:.1%}" in words
    for case in results[0]["verdict"]["objectives"]:
        assert case["explanation"] in words
    assert "some processor, 2 cores used, 24 GiB" in words
    assert "0.1.0 0123456789ab" in words


def test_what_is_simulated_is_called_so() -> None:
    """In the page and in Markdown, even if its name does not say it."""
    rival = result(latencies(300, 2), target=Target(Kind.CHAT, "http://127.0.0.1:1", "chat", simulated=True))
    results = [whole(result(latencies(300, 1)), rival)]
    for text in (report.html(results), report.markdown(results)):
        assert len(re.findall(r"\bchat\b", text)) == text.count("simulated chat") > 0


@pytest.mark.parametrize(
    ("results", "missing"),
    [
        ([whole(result(latencies(300, 1)))], set()),
        ([whole(result([]))], {"How long people waited", "Every request of keyahead", ALL_DECODED}),
        ([whole(result([5.0] * 300, failed=300))], {"How long people waited", ALL_DECODED}),
    ],
    ids=["keyahead alone", "nothing asked", "all failed"],
)
def test_what_was_not_measured_is_left_out(results: list[dict[str, Any]], missing: set[str]) -> None:
    """Neither an error nor an empty picture, nor a number that nobody measured."""
    page = Page(report.html(results))
    assert page.headings == SECTIONS - missing
    assert "nan" not in page.words.lower()
    assert "None" not in page.words
    assert report.markdown(results).startswith("### ")


def test_a_server_that_carries_nobody_has_no_cost() -> None:
    """The API's is told all the same."""
    results = [whole(result(latencies(100, 1)), cost=priced(capacity=0))]
    assert "API stays cheaper" in Page(report.html(results)).words
    assert "own server -" in report.markdown(results)


def test_hostile_names_are_nothing_but_text() -> None:
    """A system, a folder and an error code that try to be HTML or Markdown."""
    own = result(latencies(300, 1), target=Target(Kind.KEYAHEAD, "127.0.0.1:1", HOSTILE), texts=HOSTILE, failed=3)
    own["figures"]["errors"] = {HOSTILE: 3}
    own["records"]["detail"] = [HOSTILE] * 300
    hostile = [whole(own)]
    page = Page(report.html(hostile))
    assert page.words.count(HOSTILE) >= 3
    clean = Page(report.html(full()))
    assert page.tags <= clean.tags
    assert page.attributes <= clean.attributes
    text = report.markdown(hostile)
    assert not re.search(r"<(?!/?sub>)|\*\*|\[|`|@|http:", text)
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {6, 9}


def test_markdown_has_verdict_objectives_and_systems() -> None:
    """A row for each, and the capacity of the ramp."""
    results = full()
    text = report.markdown(results)
    assert text.startswith("### ✓ Promise kept: keyahead load test\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(results[0]["verdict"]["objectives"]) + 2 + 2
    assert "Capacity: 3 typists." in text
    assert "own server 0.02" in text


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a page with everything, and with more systems than there are colours."""
    results = full()
    names = [f"{HOSTILE} {number}" for number in range(5)]
    results[0]["systems"] += [result(latencies(601, n, 1 + n), target=Target(TARGET.kind, "", name)) for n, name in enumerate(names)]
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report.html(results))
    return file.as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_can_be_read_at_every_width_in_light_and_in_dark(browser: Browser, page: str, *, width: int, dark: bool) -> None:
    """Nothing lies outside the window, no label of a picture outside its card, and the faintest text has WCAG 2's contrast AA (4.5)."""
    browser.look(width, dark=dark)
    browser.open(page)
    browser.wait_for("document.readyState === 'complete'")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OUTSIDE) == []
    contrast, text = browser.value(CONTRAST)
    assert contrast >= 4.5, text
    assert browser.errors == []
