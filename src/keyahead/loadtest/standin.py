"""A stand-in for closed completion services: a real HTTP server that answers as late as those are published to.

It is a simulation and labelled so wherever its figures are shown. Its answers are perfect, the rest of the line as it will be typed, which
the load test tells it: so its useful characters show what latency alone costs.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TRUTH_FIELD = "keyahead_truth"
"""Field of a request with what will be typed."""
_P99 = 2.3263478740408408
"""Standard deviations from the median to the 99th percentile of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Latency:
    """A log-normal distribution of seconds."""

    median_s: float
    sigma: float
    source: str

    def draw_s(self, rng: random.Random) -> float:
        """One answer's latency."""
        return self.median_s * math.exp(rng.gauss(0, self.sigma))


_SIGMA = math.log(1862 / 329) / _P99
LATENCIES = {
    "completion": Latency(
        0.329, _SIGMA, "dedicated completion service: p50 329 ms, p99 1,862 ms, Copilot in 2022 (coderec_programming_states)"
    ),
    "chat": Latency(
        0.8 / math.exp(_SIGMA**2 / 2),
        _SIGMA,
        "general closed chat API: mean 0.8 s to a short answer (GPT-5-mini 0.78 s, GPT-4.1-mini 0.79 s, December 2025); spread as above",
    ),
}
"""By name; a mean of m with a spread of sigma has its median at m / exp(sigma²/2)."""


class StandIn:
    """The server, on a free port of the loopback interface."""

    def __init__(self, latency: Latency, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
        drawing = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                arrived = time.monotonic()
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with drawing:
                    wait_s = latency.draw_s(rng)
                answer = json.dumps(_reply(body)).encode()
                time.sleep(max(0.0, wait_s - (time.monotonic() - arrived)))
                with contextlib.suppress(ConnectionError):  # the client may be gone when the run has ended
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def serve(self) -> None:
        """Until `close`, or the process ends."""
        self._server.serve_forever()

    def close(self) -> None:
        """End `serve` and free the port."""
        self._server.shutdown()
        self._server.server_close()


def _reply(body: dict[str, Any]) -> dict[str, Any]:
    text = str(body.get(TRUTH_FIELD, "")).partition("\n")[0]
    asked = "".join(str(message.get("content", "")) for message in body.get("messages", [])) or str(body.get("prompt", ""))
    usage = {"prompt_tokens": math.ceil(len(asked) / 4), "completion_tokens": math.ceil(len(text) / 4)}  # about 4 characters a token
    return {"choices": [{"text": text, "message": {"role": "assistant", "content": text}}], "usage": usage}


if __name__ == "__main__":
    server = StandIn(LATENCIES[sys.argv[1]], int(sys.argv[2]))
    print(server.url, flush=True)  # noqa: T201  # the parent reads where it is
    server.serve()
