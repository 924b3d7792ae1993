"""The metrics port: Prometheus' page and the live status page, the latter in a real browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from keyahead.service import pages
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, FinishReason, Source, Timings
from keyahead.service.pages import MetricsServer
from tests.browser import CONTRAST, Browser


@pytest.fixture
def metrics() -> Metrics:
    """Of a service that is up."""
    metrics = Metrics("tiny", "0123456789ab")
    metrics.engine_up.set(1)
    return metrics


@pytest.fixture
def server(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsServer]:
    """On a free port, with figures that are always fresh."""
    monkeypatch.setattr(pages, "FRESH_S", 0)
    server = MetricsServer(metrics, "127.0.0.1", 0)
    yield server
    server.close()


def url(server: MetricsServer, path: str = "/") -> str:
    """The address of a page."""
    return f"http://127.0.0.1:{server.port}{path}"


def answer(metrics: Metrics, seconds: float, count: int, source: Source = Source.ENGINE) -> None:
    """So many answers to somebody who types."""
    for _ in range(count):
        metrics.requests.labels("Complete", "ok", source.value, "automatic").observe(seconds)
        metrics.answered(Answer("text", FinishReason.STOP, source, 100, 7, Timings(decode=seconds * 900, total=seconds * 1000)))


def test_prometheus_is_served_and_the_port_freed_on_close(metrics: Metrics) -> None:
    """A scrape gets the text; afterwards another service may take the port; a taken one is an OSError."""
    server = MetricsServer(metrics, "127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        MetricsServer(metrics, "127.0.0.1", server.port)
    with urllib.request.urlopen(url(server, "/metrics"), timeout=5) as page:
        text = page.read().decode()
    server.close()
    assert 'keyahead_build_info{model="tiny",model_version="0123456789ab"' in text
    MetricsServer(metrics, "127.0.0.1", server.port).close()


def test_the_status_page_is_one_file_that_may_ask_for_its_figures_only(server: MetricsServer) -> None:
    """At / and at /status; the browser is told to load nothing from elsewhere; what is not there or not a GET is refused."""
    for path in ("/", "/status"):
        with urllib.request.urlopen(url(server, path), timeout=5) as page:
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    for path, data, code in (("/secrets", None, 404), ("/", b"", 405)):
        with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(url(server, path), data, timeout=5):
            pass
        assert refused.value.code == code
        refused.value.close()


def test_figures_are_made_once_however_many_look(metrics: Metrics) -> None:
    """A page left open by everybody costs what one costs."""
    server = MetricsServer(metrics, "127.0.0.1", 0)
    first = server._json()
    answer(metrics, 0.1, 1)
    assert server._json() is first
    server.close()


def test_the_page_shows_the_figures_and_follows_them(server: MetricsServer, metrics: Metrics, browser: Browser) -> None:
    """Nobody has to reload: good figures, then bad ones, then no service at all."""
    answer(metrics, 0.09, 150)
    answer(metrics, 0.002, 50, Source.MEMORY)
    browser.look(1400)
    browser.open(url(server))
    browser.wait_for("document.getElementById('verdict')?.textContent === '✓ within 200 ms'")
    text = browser.value("document.body.innerText")
    for shown in ("engine ready", "tiny", "100 % left", "25.0 %", "Decoding"):
        assert shown in text.replace("\n", " ")
    answer(metrics, 0.35, 50)
    browser.wait_for("document.getElementById('verdict').textContent === '✕ above 200 ms'")
    assert "times the budget used" in browser.value("document.getElementById('budget').innerText")
    assert "objective 200 ms" in browser.value("document.getElementById('trend').ariaLabel")
    assert browser.errors == []
    server.close()
    browser.wait_for("!document.getElementById('lost').hidden")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 800, 1400])
@pytest.mark.parametrize("late", [0, 200], ids=["kept", "missed"])
def test_the_page_can_be_read_at_every_width_in_light_and_in_dark(
    server: MetricsServer, metrics: Metrics, browser: Browser, *, width: int, dark: bool, late: int
) -> None:
    """Nothing lies outside the window, and the faintest text has the contrast that WCAG 2 asks for (AA, 4.5)."""
    answer(metrics, 0.09, 200)
    answer(metrics, 0.35, late)
    browser.look(width, dark=dark)
    browser.open(url(server))
    browser.wait_for("document.getElementById('verdict')?.classList.length === 2")
    assert browser.value("document.documentElement.scrollWidth") <= width
    contrast, text = browser.value(CONTRAST)
    assert contrast >= 4.5, text


def test_figures_name_no_tenant_and_no_text(server: MetricsServer, metrics: Metrics) -> None:
    """Whoever may scrape may look: the page holds numbers and the build's names."""
    with urllib.request.urlopen(url(server, "/status.json"), timeout=5) as page:
        figures = json.load(page)

    def leaves(value: object) -> list[object]:
        nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [value] if nested is None else [leaf for each in nested for leaf in leaves(each)]

    assert {leaf for leaf in leaves(figures) if isinstance(leaf, str)} == set(metrics.build.values())
