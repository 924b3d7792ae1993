"""How many typists a service carries."""

from __future__ import annotations

from typing import Any

import pytest

from keyahead.loadtest.capacity import capacity


def phase(typists: int, slow: int = 0, useful: int = 600, asked: int = 1000) -> dict[str, Any]:
    """A phase of a ramp in which 1,000 characters were typed."""
    share = useful / 1000
    figures = {"eligible": asked, "slow": slow, "useful_characters": useful, "typed_characters": 1000, "useful_share": share}
    return {"typists": typists, "figures": figures}


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([phase(1), phase(2), phase(3)], 3),
        ([phase(1), phase(2, slow=11), phase(3)], 1),  # what comes after a phase that is not carried does not count
        ([phase(1), phase(2, slow=10), phase(3, useful=450)], 2),
        ([phase(1), phase(2, useful=530)], 2),  # within chance of 90 %
        ([phase(1, slow=20)], 0),
        ([phase(1, asked=0)], 0),
    ],
)
def test_capacity(phases: list[dict[str, Any]], expected: int) -> None:
    """The most typists with p99 within the bound and useful characters not surely below 90 % of a lone typist's."""
    assert capacity(phases) == expected
