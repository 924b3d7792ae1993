"""The event log: what became of each suggestion, one JSON object a line, without any text. It stays on this machine."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog

from keyahead.service.logs import describe
from keyahead.service.model import Outcome

MAX_BYTES: Final = 16 << 20
"""Size at which the log becomes `NAME.1`, in place of an older one: some 70,000 outcomes."""
MAX_WAITING: Final = 1024
"""Outcomes that may wait for a slow disk; further ones are dropped."""


class EventLog:
    """Appends outcomes to a file, in a thread of its own."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="event log", daemon=True)
        self._thread.start()

    def append(self, outcome: Outcome) -> None:
        """Log an outcome, or drop it if the disk does not keep up."""
        event = {"time": round(time.time(), 3), **msgspec.to_builtins(outcome)}
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(msgspec.json.encode(event) + b"\n")

    def close(self) -> None:
        """Write what waits; waits itself for at most two seconds."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=1.0)
        self._thread.join(1.0)

    def _run(self) -> None:
        try:
            self._write()
        except OSError as error:
            structlog.get_logger().warning("event log lost", **describe(error))

    def _write(self) -> None:
        file = self._open()
        try:
            while (line := self._waiting.get()) is not None:
                if file.tell() + len(line) > self._max_bytes:
                    file.close()
                    self._path.replace(self._path.with_name(self._path.name + ".1"))
                    file = self._open()
                file.write(line)
                file.flush()
        finally:
            file.close()

    def _open(self) -> BinaryIO:
        return self._path.open("ab")
