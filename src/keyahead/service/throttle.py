"""How fast one session may be: what it sends beyond that waits, so that one client cannot take the event loop from the others."""

from __future__ import annotations

from typing import Final

MESSAGE_S: Final = 0.01
"""A stream has so many seconds a message in the long run: several times what the quickest typist sends, cursor moves included."""
BURST_S: Final = 1.0
"""Messages for so long may come at once: the edits of a macro, or documents that an editor opens as it starts."""
LOOP_PART: Final = 10
"""A message that takes longer to handle counts for so many times that, so a stream has a tenth of the event loop at most."""


class Throttle:
    """The generic cell rate algorithm (ITU-T I.371), in seconds. Synchronous; the times are given."""

    def __init__(self) -> None:
        self._paid_until = 0.0

    def wait_s(self, now: float, spent: float) -> float:
        """How long the next message has to wait behind one that has just been handled, in so much of the processor's time."""
        self._paid_until = max(self._paid_until, now - spent) + max(MESSAGE_S, LOOP_PART * spent)
        return max(0.0, self._paid_until - BURST_S - now)
