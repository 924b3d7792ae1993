"""When garbage is collected: behind the answers.

CPython would do it wherever the 700th new container is made: with one hit of 17, for 0.07 ms, and with one of 200, for 0.8 ms (medians at
100 hits a second, 2 cores), and many of these would wait for it. Never collecting was no better: hits' p99 was 2.2 ms then, else 1.9 ms.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

DUE: Final = (700, 10, 10)
"""Behind an answer, these thresholds hold: CPython's own."""
OVERDUE: Final = (50_000, 10, 10)
"""At other times: reached only where no answer is given for long."""


def settle() -> None:
    """Take what warm-up has left out of collection, which would walk it again and again; collect the rest only when it is time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*OVERDUE)


@contextmanager
def time_to_collect() -> Iterator[None]:
    """Within, garbage is collected if it is due."""
    before = gc.get_threshold()
    gc.set_threshold(*DUE)
    try:
        yield
    finally:
        gc.set_threshold(*before)
