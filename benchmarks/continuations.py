"""Typing into a warm session of a running service: 200 single-character continuations, one after the other.

`keyahead up` (or `make run`) must be serving. Each request follows the last answer at once, which is harder than any typist;
`--interval-ms` waits like one. The answers that needed the engine are the baseline of those that did not, in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path

import grpc

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

WARM_TIMEOUT_S = 60.0


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request(text: str, at: int, gap: int, *, by_hand: bool) -> pb.CompleteRequest:
    """The document with the cursor at `at`; the `gap` characters behind what will be typed are what follows."""
    return pb.CompleteRequest(
        document=pb.Document(path="typed.py", split=pb.SplitText(prefix=text[:at], suffix=text[gap:])),
        session_id="continuations",
        trigger=pb.TRIGGER_MANUAL if by_hand else pb.TRIGGER_AUTOMATIC,
    )


def useful(answer: str, truth: str) -> int:
    """Characters that agree with what is then typed."""
    return next((i for i, (a, b) in enumerate(zip(answer, truth, strict=False)) if a != b), min(len(answer), len(truth)))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50551")
    parser.add_argument("--file", type=Path, default=Path(json.__file__))
    parser.add_argument("--start", type=int, default=4000, help="characters before the cursor at first")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--interval-ms", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    text = options.file.read_text()
    end = options.start + options.count
    gap = text.find("\n", end)
    stub = pb_grpc.AutocompleteStub(grpc.insecure_channel(options.address))
    stub.Complete(request(text, options.start, gap, by_hand=True), timeout=WARM_TIMEOUT_S)
    times: dict[str, list[float]] = {}
    tokens, agreed, reasons = [], [], Counter[str]()
    for at in range(options.start + 1, end + 1):
        begin = time.perf_counter()
        answer = stub.Complete(request(text, at, gap, by_hand=False), timeout=5)
        spent = (time.perf_counter() - begin) * 1e3
        times.setdefault(pb.Source.Name(answer.source).removeprefix("SOURCE_").lower(), []).append(spent)
        tokens.append(answer.tokens.completion)
        agreed.append(useful(answer.text, text[at:]))
        reasons[pb.FinishReason.Name(answer.finish_reason).removeprefix("FINISH_REASON_").lower()] += 1
        time.sleep(max(0.0, options.interval_ms - spent) / 1e3)
    every = [spent for spents in times.values() for spent in spents]
    result = {
        "requests": len(every),
        "p50_ms": percentile(every, 0.5),
        "p99_ms": percentile(every, 0.99),
        "max_ms": max(every),
        "median_tokens": statistics.median(tokens),
        "useful_characters": statistics.mean(agreed),
        "sources": {source: {"share": len(spents) / len(every), "p50_ms": percentile(spents, 0.5)} for source, spents in times.items()},
        "finish_reasons": {reason: count / len(every) for reason, count in reasons.items()},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
