"""What the engine says about cancels and drafts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from keyahead.loadtest.engine_page import EnginePage, parse

PAGE = """# HELP keyahead_engine_cancelled_total Sequences cancelled.
keyahead_engine_cancelled_total{model="m",phase="decode"} 3
keyahead_engine_cancelled_total{model="m",phase="prefill"} 4
keyahead_engine_tokens_after_cancel_total{model="m"} 12
keyahead_engine_tokens_total{kind="draft",model="m"} 50
keyahead_engine_tokens_total{kind="accepted_draft",model="m"} 20
keyahead_engine_tokens_total{kind="decode",model="m"} 70
keyahead_engine_steps_total{model="m"} 99
"""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Shows the pages in `pages`, one for each request, and then none."""
    pages = [PAGE, PAGE, PAGE.replace("} 20", "} 31").replace("} 12", "} 13")]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if pages else 503)
            self.end_headers()
            self.wfile.write(pages.pop(0).encode() if pages else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_labels_are_added_up() -> None:
    """Cancels in all phases, drafts and accepted drafts, and nothing else; an engine that has done nothing yet has none."""
    assert parse(PAGE) == {"cancelled": 7, "tokens_after": 12, "drafted": 50, "accepted": 20}
    assert parse("") == {"cancelled": 0, "tokens_after": 0, "drafted": 0, "accepted": 0}


def test_what_grew_during_a_run(server: HTTPServer) -> None:
    """Counts from the first reading on, by moment; a page that cannot be read for once is left out."""
    page = EnginePage(f"http://127.0.0.1:{server.server_address[1]}/metrics")
    assert page.cancels is None
    for moment in (1.0, 2.0, 3.0):
        page.look(moment)
    assert page.to_json() == {"at_s": [1, 2], "cancelled": [0, 0], "tokens_after": [0, 1], "drafted": [0, 0], "accepted": [0, 11]}
    assert page.cancels == {"cancelled": 0, "tokens_after": 1}


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:1/metrics"])
def test_a_page_that_is_not_there_is_said_at_once(url: str) -> None:
    """Before anything has been measured."""
    with pytest.raises((OSError, ValueError)):
        EnginePage(url)
