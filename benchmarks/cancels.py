"""Cancels without end, against a running service: memory must stay flat and the engine must stop at once.

`keyahead up` must be serving, with `--triton-metrics` as it says. Most calls are cancelled at a random moment, as editors do. Prints the
resident memory of the service and the engine over time, and the tokens computed for requests after their cancel was known.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
import urllib.request
from pathlib import Path

import grpc
import psutil

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

NAMES = {"service": "serve", "engine": "triton_python_b"}


def memory_mb(name: str) -> float:
    """Resident memory of the process with that name or last argument."""
    for process in psutil.process_iter(["name", "cmdline", "memory_info"]):
        if process.info["name"].startswith(name) or name in (process.info["cmdline"] or [])[-1:]:
            return float(process.info["memory_info"].rss) / 1e6
    raise SystemExit(f"no process {name} is running: start `keyahead up` first")


def counter(url: str, name: str) -> float:
    """A counter of the engine, all labels together."""
    page = urllib.request.urlopen(url, timeout=5).read().decode()  # noqa: S310 - the address is the operator's
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50551")
    parser.add_argument("--triton-metrics", default="http://127.0.0.1:8802/metrics")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--gap-ms", type=float, default=100.0, help="longest time from a call to its cancel and the next call")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    stub = pb_grpc.AutocompleteStub(grpc.insecure_channel(options.address))
    text = Path(os.__file__).read_text()
    rng = random.Random(1)  # noqa: S311 - no secret
    before = {name: counter(options.triton_metrics, f"keyahead_engine_{name}") for name in ("tokens_after_cancel", "cancelled")}
    samples, calls, end = [], 0, time.monotonic() + options.seconds
    next_sample = 0.0
    while time.monotonic() < end:
        if time.monotonic() >= next_sample:
            samples.append({name: memory_mb(process) for name, process in NAMES.items()})
            next_sample = time.monotonic() + options.seconds / 10
        at = rng.randrange(500, len(text))
        document = pb.Document(path="os.py", split=pb.SplitText(prefix=text[:at], suffix=text[at : at + 500]))
        call = stub.Complete.future(pb.CompleteRequest(document=document, session_id=f"s{calls % 8}"), timeout=1)
        time.sleep(rng.random() * options.gap_ms / 1e3)
        call.cancel()
        calls += 1
    time.sleep(2)
    after = {name: counter(options.triton_metrics, f"keyahead_engine_{name}") for name in before}
    cancelled = after["cancelled"] - before["cancelled"]
    result = {
        "calls": calls,
        "cancelled_in_engine": cancelled,
        "tokens_after_cancel": after["tokens_after_cancel"] - before["tokens_after_cancel"],
        "tokens_per_cancel": (after["tokens_after_cancel"] - before["tokens_after_cancel"]) / max(1.0, cancelled),
        # The first sample is before the caches have filled.
        "memory_growth": {name: samples[-1][name] / samples[len(samples) // 2][name] for name in NAMES},
        "memory_mb": samples,
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
