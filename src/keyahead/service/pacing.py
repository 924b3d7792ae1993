"""How long a client that asks by itself may wait after a key: not at all while answers come before the next key.

It is a hint. Where the server asks in its client's place it never waits, since the user would (docs/design.md, sessions).

Editors usually wait for a fixed time, which delays every suggestion, or derive one from the typing rhythm and the server's answers, as
Tabby does. Here most keys are answered from a cache or from the suggestion shown, and a decode that the next key overtakes serves that key,
too. So asking costs little until answers come later than the typist's next key:

    hint = share of keys that needed the engine * clamp(latency - interval, 0, PAUSE_S)

`latency` is the mean of the engine's last answers, `interval` that between the last keys of a burst. While answers come within an interval
the hint is 0. When they take two of them, and every key needs the engine, it is the interval itself: then only a pause is asked for. Load
makes answers late, and so lengthens the hint.
"""

from __future__ import annotations

from collections import deque
from typing import Final

PAUSE_S: Final = 0.4
"""A longer interval is a pause and not rhythm, and no hint is longer (Tabby's debouncer ignores intervals above it)."""
USUAL_INTERVAL_S: Final = 0.232
"""Median interval of keys inside a burst (data/typing.json, `under_2s`), until the typist's own is known."""
NUM_INTERVALS: Final = 20
"""Intervals that make a rhythm (Tabby's smallest window); before a quarter of them the usual one is used."""
NUM_ANSWERS: Final = 10
"""Engine answers that the latency is the mean of (Tabby's window)."""
NUM_KEYS: Final = 20
"""Keys that the engine's share is taken of."""
LATE_FACTOR: Final = 2
"""An answer that time or the next key cut off is counted as twice the time it was given: how long it would have taken is not known, and
doubling is how TCP, too, backs off from an answer it never saw (RFC 6298, 5.5)."""
STEP_S: Final = 0.01
"""Hints are multiples of it, so that a client is not told of every millisecond."""


class Pacer:
    """One typist's rhythm and how answers keep up with it."""

    def __init__(self) -> None:
        self._last_key: float | None = None
        self._intervals: deque[float] = deque(maxlen=NUM_INTERVALS)
        self._latencies: deque[float] = deque(maxlen=NUM_ANSWERS)
        self._engine_needed: deque[bool] = deque(maxlen=NUM_KEYS)

    def key(self, now: float) -> None:
        """A key was typed."""
        if self._last_key is not None and now - self._last_key <= PAUSE_S:
            self._intervals.append(now - self._last_key)
        self._last_key = now

    def free(self) -> None:
        """A key needed no engine: it was answered from a cache or by the suggestion shown."""
        self._engine_needed.append(False)

    def answered(self, seconds: float) -> None:
        """The engine answered a key in time, after so long."""
        self._engine_needed.append(True)
        self._latencies.append(seconds)

    def late(self, seconds: float) -> None:
        """An answer was refused, or cut off by its deadline or the next key, after so long."""
        self.answered(LATE_FACTOR * seconds)

    @property
    def hint_ms(self) -> int:
        """Milliseconds to wait after a key before asking: 0 to 400."""
        if not self._latencies:
            return 0
        known = len(self._intervals) >= NUM_INTERVALS // 4
        interval = sum(self._intervals) / len(self._intervals) if known else USUAL_INTERVAL_S
        latency = sum(self._latencies) / len(self._latencies)
        needed = sum(self._engine_needed) / len(self._engine_needed)
        hint = needed * min(max(latency - interval, 0.0), PAUSE_S)
        return round(round(hint / STEP_S) * STEP_S * 1000)
