"""Whether the load test's figures are right: a client that shares nothing with it but the keys asks the same, and takes its own times.

Two stacks are started, one after the other, so that both find cold caches. On the first `keyahead loadtest` types; on the second this
program does, with a thread for each person, another for each question, blocking calls and the monotonic clock. Both count from the intended
key, and leave out what a newer key superseded within 200 ms. Percentiles are nearest ranks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from common import Figure, report_figures
from running import KEYAHEAD, running_stack

from keyahead.loadtest.plan import Key, Plan, make_plan
from keyahead.loadtest.texts import from_folder
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

AGREE_MS = 3.0
PROMISE_S = 0.2
DEADLINE_S = 2.0
PATIENCE_S = 0.3
"""After which an unfinished answer is asked for again, if no key has come: docs/loadtest.md."""
UNFINISHED = (pb.FINISH_REASON_PARTIAL, pb.FINISH_REASON_DEADLINE)


@dataclass(frozen=True, slots=True)
class Time:
    """From a key to the end of its question."""

    seconds: float
    superseded: bool


class Person:
    """Types a plan from a moment on."""

    def __init__(self, plan: Plan, address: str, start: float) -> None:
        self._plan = plan
        self._stub = pb_grpc.AutocompleteStub(grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]))
        self._start = start
        self._newest = -1
        self._asking: list[threading.Thread] = []
        self.times: list[Time] = []

    def type(self) -> None:
        """Hit every key at its moment; return when all questions have ended."""
        for number, key in enumerate(self._plan.keys):
            time.sleep(max(0.0, self._start + key.at_s - time.monotonic()))
            self._newest = number
            if key.asks:
                thread = threading.Thread(target=self._ask, args=(number, key))
                thread.start()
                self._asking.append(thread)
        for thread in self._asking:
            thread.join()

    def _ask(self, number: int, key: Key) -> None:
        request = self._request(key)
        try:
            answer = self._stub.Complete(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            code = error.code()
            self.times.append(Time(time.monotonic() - self._start - key.at_s, code is grpc.StatusCode.ABORTED))
            return
        self.times.append(Time(time.monotonic() - self._start - key.at_s, superseded=False))
        if answer.finish_reason in UNFINISHED and self._newest == number:
            time.sleep(PATIENCE_S)
            if self._newest == number:
                with suppress(grpc.RpcError):  # superseded: only its work matters
                    self._stub.Complete(request, timeout=DEADLINE_S)

    def _request(self, key: Key) -> pb.CompleteRequest:
        passage = self._plan.passages[key.passage]
        prefix = passage.before + passage.typed[: key.position] + key.mistake
        text = pb.SplitText(prefix=prefix, suffix=passage.after)
        document = pb.Document(path=passage.path, language=passage.language, split=text)
        session = f"independent.{self._plan.typist}"
        return pb.CompleteRequest(document=document, trigger=pb.TRIGGER_AUTOMATIC, session_id=session)


def by_loadtest(address: str, typists: int, seconds: int, seed: int) -> dict[str, Any]:
    """The figures of `keyahead loadtest`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        options = f"--address {address} --typists {typists} --duration {seconds} --seed {seed} --output {file}"
        subprocess.run([KEYAHEAD, "loadtest", *options.split()], stdout=subprocess.DEVNULL, check=False, timeout=seconds + 120)
        figures: dict[str, Any] = json.loads(file.read_text())["systems"][0]["figures"]
        return figures


def by_ourselves(address: str, typists: int, seconds: int, seed: int) -> list[float]:
    """Milliseconds of every question that counts, in order."""
    sources = from_folder()
    plans = [make_plan(sources, seed, number, typists, float(seconds)) for number in range(typists)]
    with suppress(PermissionError):
        os.nice(-10)  # As the load test does: real editors do not share the service's processors.
    start = time.monotonic() + 1
    people = [Person(plan, address, start) for plan in plans]
    threads = [threading.Thread(target=person.type) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [each for person in people for each in person.times]
    return sorted(each.seconds * 1000 for each in times if not (each.superseded and each.seconds <= PROMISE_S))


def rank(values: Sequence[float], percent: float) -> float:
    """The nearest rank."""
    return values[max(0, math.ceil(len(values) * percent / 100) - 1)]


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    for option, default in (("--typists", 4), ("--seconds", 60), ("--seed", 0)):
        parser.add_argument(option, type=int, default=default)
    options = parser.parse_args()
    load = options.typists, options.seconds, options.seed
    with running_stack() as stack:
        theirs = by_loadtest(stack.service.address, *load)
    with running_stack() as stack:
        ours = by_ourselves(stack.service.address, *load)
    figures = [Figure("count", "requests that count", len(ours), "", f"{theirs['eligible']} by the load test")]
    for name, percent in (("p50", 50), ("p90", 90), ("p99", 99)):
        own, its = rank(ours, percent), theirs["latency_ms"][name]
        compared = f"{its:.1f} ms by the load test"
        figures.append(Figure(name, f"{name} by the independent client", own, "ms", compared))
        if name != "p90":
            figures.append(Figure(f"{name}_apart", f"{name}, difference", abs(own - its), "ms", at_most=AGREE_MS))
    report_figures(Path(__file__).stem, figures, as_json=options.json)


if __name__ == "__main__":
    main()
