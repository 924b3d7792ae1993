"""The event log holds what became of suggestions, in a bounded file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyahead.service.model import Outcome, OutcomeKind, Source
from keyahead.service.outcomes import MAX_WAITING, EventLog

OUTCOME = Outcome(OutcomeKind.PARTIAL, "r1", "s1", 12, 3, Source.MEMORY, 4.5)


def test_each_outcome_is_a_line(tmp_path: Path) -> None:
    """With the time and everything known of it; a second run goes on behind the first."""
    for _ in range(2):
        log = EventLog(tmp_path / "events")
        log.append(OUTCOME)
        log.close()
    first, second = (json.loads(line) for line in (tmp_path / "events").read_text().splitlines())
    assert first.pop("time") <= second.pop("time")
    assert first == second
    assert first == {
        "kind": "partial",
        "request_id": "r1",
        "session_id": "s1",
        "shown_chars": 12,
        "accepted_chars": 3,
        "source": "memory",
        "latency_ms": 4.5,
    }


def test_a_full_log_becomes_the_old_one(tmp_path: Path) -> None:
    """Two files of at most the size asked for, the newest outcomes in them."""
    log = EventLog(tmp_path / "events", max_bytes=1000)
    for _ in range(50):
        log.append(OUTCOME)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events", "events.1"]
    assert all(0 < path.stat().st_size <= 1000 for path in tmp_path.iterdir())


def test_a_disk_that_hangs_costs_outcomes_and_nothing_else(tmp_path: Path) -> None:
    """A pipe that nobody reads: appending and closing return, and memory is bounded."""
    os.mkfifo(tmp_path / "events")
    log = EventLog(tmp_path / "events")
    for _ in range(2 * MAX_WAITING):
        log.append(OUTCOME)
    log.close()
    assert log._waiting.qsize() == MAX_WAITING
    os.close(os.open(tmp_path / "events", os.O_RDONLY | os.O_NONBLOCK))  # Lets the thread go on, and end.


def test_a_file_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    """The service goes on without a log."""
    log = EventLog(tmp_path / "missing" / "events")
    log._thread.join(5)
    assert not log._thread.is_alive()
    log.append(OUTCOME)
