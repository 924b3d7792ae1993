"""The metrics port: Prometheus' page at /metrics, the live status page at / and its figures at /status.json."""

from __future__ import annotations

import json
import threading
import time
from importlib import resources
from typing import TYPE_CHECKING, Final

from prometheus_client import make_wsgi_app, start_http_server

from keyahead.service import status

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.simple_server import WSGIServer
    from wsgiref.types import StartResponse, WSGIEnvironment

    from keyahead.service.metrics import Metrics

FRESH_S: Final = 2.0
"""Figures are not made more often, however many look at them: they cost about what a scrape does. The page asks as often."""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'"
_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # All of the page is in one file; what it may ask for is /status.json.
    ("Content-Security-Policy", _POLICY),
)


class MetricsServer:
    """Serves over HTTP, in threads of its own. Raises OSError when the port cannot be had."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._metrics = metrics
        self._prometheus = make_wsgi_app(metrics.registry)
        self._page = (resources.files("keyahead.service") / "status.html").read_bytes()
        self._history = status.History(status.take(metrics, time.monotonic()))
        self._figures, self._figures_at = b"", -FRESH_S
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: WSGIServer
        self._server, self._thread = start_http_server(port, host.strip("[]"), metrics.registry)
        self._server.set_app(self._answer)
        self.port: int = self._server.server_port
        self._sampler = threading.Thread(target=self._sample, name="status", daemon=True)
        self._sampler.start()

    def close(self) -> None:
        """Stop serving and free the port; waits for at most half a second."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._closing.wait(status.PERIOD_S):
            self._history.add(status.take(self._metrics, time.monotonic()))

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._prometheus(environ, start_response)  # type: ignore[no-any-return]  # the library leaves it open
        if environ["REQUEST_METHOD"] != "GET":
            return _send(start_response, "405 Method Not Allowed", "text/plain", b"use GET\n")
        if path in {"/", "/status"}:
            return _send(start_response, "200 OK", "text/html; charset=utf-8", self._page)
        if path == "/status.json":
            return _send(start_response, "200 OK", "application/json", self._json())
        return _send(start_response, "404 Not Found", "text/plain", b"there are /, /status.json and /metrics\n")

    def _json(self) -> bytes:
        with self._lock:
            now = time.monotonic()
            if now - self._figures_at >= FRESH_S:
                figures = status.report(self._metrics, self._history, status.take(self._metrics, now))
                self._figures, self._figures_at = json.dumps(figures).encode(), now
            return self._figures


def _send(start_response: StartResponse, code: str, kind: str, body: bytes) -> list[bytes]:
    start_response(code, [("Content-Type", kind), ("Content-Length", str(len(body))), *_HEADERS])
    return [body]
