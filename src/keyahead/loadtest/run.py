"""Runs the generator processes of one run, and puts what they say together."""

from __future__ import annotations

import dataclasses
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keyahead.loadtest import columns, histograms
from keyahead.loadtest.config import Config
from keyahead.loadtest.figures import summarize
from keyahead.loadtest.judge import Outcome, Record, Typed
from keyahead.loadtest.shape import Phase, phase_at

READY_WITHIN_S = 120.0
"""For reading all texts and making all plans."""
LATE_S = 60.0
"""A generator that is not done so long after the run's end is given up."""
_START_IN_S = 0.5
_NOTHING = "The load generator {}: see what it said above, and run the command again."

Live = dict[str, Any]


class GeneratorError(Exception):
    """A generator did not do its work; the text is a sentence with the cure."""


def run(config: Config, show: Callable[[Live], None]) -> dict[str, Any]:
    """One run of one system; `show` gets live figures about once a second. Raises GeneratorError."""
    with tempfile.TemporaryDirectory(prefix="keyahead-loadtest-") as folder:
        config_file = Path(folder) / "config.json"
        config_file.write_text(json.dumps(dataclasses.asdict(config)))
        shards = [_Shard(config_file, number) for number in range(config.shards)]
        try:
            return assemble(config, _conduct(config, shards, show))
        finally:
            for shard in shards:
                shard.close()


class _Shard:
    """One generator process."""

    def __init__(self, config_file: Path, number: int) -> None:
        self._result = config_file.with_name(f"result-{number}.json")
        command = [sys.executable, "-P", "-m", "keyahead.loadtest.generator", str(config_file), str(number), str(self._result)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said: queue.SimpleQueue[Live | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def hear(self, within_s: float) -> Live | None:
        """The next thing it says, or None once it has ended. Raises GeneratorError."""
        try:
            return self.said.get(timeout=max(0.0, within_s))
        except queue.Empty:
            raise GeneratorError(_NOTHING.format("was not done in time")) from None

    def begin(self, start: float) -> None:
        """The run's first moment."""
        assert self._process.stdin  # noqa: S101  # asked for above
        print(start, file=self._process.stdin, flush=True)

    def result(self) -> dict[str, Any]:
        """What it found. Raises GeneratorError."""
        if self._process.wait(LATE_S):
            raise GeneratorError(_NOTHING.format(f"ended with {self._process.returncode}"))
        found: dict[str, Any] = json.loads(self._result.read_text())
        return found

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        with self._process:
            pass

    def _listen(self) -> None:
        assert self._process.stdout  # noqa: S101  # asked for above
        for line in self._process.stdout:
            self.said.put(json.loads(line))
        self.said.put(None)


def _conduct(config: Config, shards: Sequence[_Shard], show: Callable[[Live], None]) -> list[dict[str, Any]]:
    """From the start to the results of all shards."""
    for shard in shards:
        if shard.hear(READY_WITHIN_S) is None:
            shard.result()
    start = time.monotonic() + _START_IN_S
    for shard in shards:
        shard.begin(start)
    end = start + config.duration_s + LATE_S
    talking = list(shards)
    while talking:
        heard = [(shard, shard.hear(end - time.monotonic())) for shard in talking]
        talking = [shard for shard, said in heard if said]
        if figures := [said for _, said in heard if said]:
            show(_together(figures))
    return [shard.result() for shard in shards]


def _together(heard: Sequence[Live]) -> Live:
    """Live figures of all shards: counts added up, percentiles of the slowest."""
    total: Counter[str] = Counter()
    for each in heard:
        total.update({name: value for name, value in each.items() if isinstance(value, int)})
    latency = {name: max((each["latency_ms"][name] or 0.0) for each in heard) for name in heard[0]["latency_ms"]}
    typed = total["typed_characters"]
    share = total["useful_characters"] / typed if typed else None
    return {**heard[0], **total, "latency_ms": latency, "useful_share": share}


def assemble(config: Config, shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result of a run, from which everything that is shown of it can be derived."""
    records = sorted((r for shard in shards for r in columns.to_records(shard["records"])), key=lambda record: record.at_s)
    typed = sorted((key for shard in shards for key in columns.to_typed(shard["typed"])), key=lambda key: key.at_s)
    parts = config.phases()
    merged = histograms.merge(shard["histograms"] for shard in shards)
    sent = sum(not record.follow_up for record in records)
    planned = sent if config.takes else sum(shard["planned"] for shard in shards)
    return {
        "system": config.target.name,
        "simulated": config.target.simulated,
        "config": dataclasses.asdict(config),
        "figures": summarize(records, typed, config.duration_s),
        "phases": [_phase(number, parts, records, typed) for number in range(len(parts))],
        "generator": {
            "planned": planned,
            "sent": sent,
            "lateness_ms": histograms.percentiles_ms(merged["lateness"]),
            "cpu_s": [shard["cpu_s"] for shard in shards],
            "niceness": [shard["niceness"] for shard in shards],
        },
        "histograms_us": histograms.encode(merged),
        "percentiles_ms": {name: histograms.percentiles_ms(each) for name, each in merged.items()},
        "seconds": seconds(records, typed, config.duration_s),
        "records": columns.from_records(records),
        "typed": columns.from_typed(typed),
    }


def _phase(number: int, parts: Sequence[Phase], records: Sequence[Record], typed: Sequence[Typed]) -> dict[str, Any]:
    phase = parts[number]
    within = [record for record in records if phase_at(parts, record.at_s) == number]
    keys = [key for key in typed if phase_at(parts, key.at_s) == number]
    return {**dataclasses.asdict(phase), "figures": summarize(within, keys, phase.end_s - phase.start_s)}


def seconds(records: Sequence[Record], typed: Sequence[Typed], duration_s: float) -> dict[str, Any]:
    """Series over time: for each second of the run, by the intended moment, counts, latencies and sources."""
    count = max(1, int(-(-duration_s // 1)))
    by_second: list[tuple[list[Record], list[Typed]]] = [([], []) for _ in range(count)]
    for record in records:
        by_second[min(count - 1, int(record.at_s))][0].append(record)
    for key in typed:
        by_second[min(count - 1, int(key.at_s))][1].append(key)
    rows = [summarize(asked, keys, 1.0) for asked, keys in by_second]
    names = ("asked", "eligible", "slow", "before_next_key", "painted", "typed_characters", "useful_characters")
    sources = sorted({source for row in rows for source in row["sources"]})
    return {
        **{name: [row[name] for row in rows] for name in names},
        "failed": [row["outcomes"].get(Outcome.FAILED.value, 0) for row in rows],
        "p50_ms": [row["latency_ms"]["p50"] for row in rows],
        "max_ms": [row["latency_ms"]["p99"] for row in rows],
        "sources": {source: [row["sources"].get(source, 0) for row in rows] for source in sources},
    }
