"""The typists of one generator process, and what they have to say at the end. Knows neither gevent nor Locust."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keyahead.loadtest import columns, histograms
from keyahead.loadtest.config import Config
from keyahead.loadtest.judge import Record, Typed
from keyahead.loadtest.plan import make_plan
from keyahead.loadtest.shape import most_typists, presence
from keyahead.loadtest.typist import Typist


@dataclass(frozen=True, slots=True)
class Member:
    """A typist, and from when until when they take part: seconds from the run's start."""

    typist: Typist
    start_s: float
    end_s: float


def members(config: Config, shard: int) -> list[Member]:
    """The typists of one of the processes. Raises TextError."""
    sources, parts = config.sources(), config.phases()
    total = most_typists(parts)
    found = []
    for number in range(shard, total, config.shards):
        start_s, end_s = presence(parts, number)
        plan = make_plan(sources, config.seed, number, total, end_s - start_s, repeat=config.repeat)
        found.append(Member(Typist(plan, takes=config.takes), start_s, end_s))
    return found


def outcome(crowd: Sequence[Member]) -> dict[str, Any]:
    """All that one process has to say: records and keys with times from the run's start, histograms, and how it did itself."""
    records = [_later(record, member.start_s) for member in crowd for record in member.typist.records]
    typed = [dataclasses.replace(key, at_s=key.at_s + member.start_s) for member in crowd for key in member.typist.typed()]
    records.sort(key=lambda record: record.at_s)
    typed.sort(key=lambda key: key.at_s)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "records": columns.from_records(records),
        "typed": columns.from_typed(typed),
        "histograms": histograms.encode(histograms.collect(records)),
        "planned": sum(key.asks for member in crowd for key in member.typist.plan.keys),
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }


def _later(record: Record, by_s: float) -> Record:
    return dataclasses.replace(record, at_s=record.at_s + by_s, sent_s=record.sent_s + by_s, done_s=record.done_s + by_s)


def recent(crowd: Sequence[Member], since_s: float) -> tuple[list[Record], list[Typed]]:
    """What happened since a moment of the run, for showing."""
    parts = [member.typist.recent(since_s - member.start_s) for member in crowd]
    return [record for records, _ in parts for record in records], [key for _, typed in parts for key in typed]
