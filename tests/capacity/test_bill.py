"""From one replica to the whole."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.capacity import data, sizing
from keyahead.capacity.bill import Bill, Demand, bill, engines
from keyahead.capacity.data import Price, Prices
from tests.capacity.samples import WORKLOAD, engine

PRICES = Prices(Price(2.0, "given"), Price(0.1, "given"), Price(0.01, "given"), {"a product": Price(19.0, "its page")})
OUTCOME = sizing.trial(engine(), WORKLOAD, 4, requests=800)


def whole(developers: int, headroom: float = 1 / 3) -> Bill:
    """For so many, a tenth of whom type."""
    return bill(Demand(developers, developers / 10, headroom), engine(), 30, OUTCOME, 0.75, data.parts(), PRICES)


@given(st.integers(1, 2_000_000), st.integers(0, 1_000_000))
def test_more_developers_never_need_less(developers: int, more: int) -> None:
    """Of anything, and it never costs less."""
    few, many = whole(developers), whole(developers + more)
    for name in (
        "engines",
        "services",
        "envoys",
        "redis_bytes",
        "redis_shards",
        "redis_commands_per_s",
        "network_unary_bytes_per_s",
        "cost",
    ):
        assert getattr(many, name) >= getattr(few, name), name


@given(st.floats(0.1, 1e6), st.integers(1, 5000), st.floats(0, 0.9))
def test_the_least_number_of_replicas_keeps_the_headroom(active: float, carried: int, headroom: float) -> None:
    """So many suffice, and one fewer does not."""
    count, each = engines(active, carried, headroom), carried * (1 - headroom)
    assert count * each >= active * (1 - 1e-6)
    assert count == 1 or (count - 1) * each < active


def test_the_figures_of_a_bill() -> None:
    """3,000 developers, 300 of whom type, at 30 on an engine less a third: 15 engines and a spare one, a month of 730 hours."""
    found = whole(3000)
    assert (found.engines, found.typists_per_engine) == (16, 20)
    assert found.engines_cost == pytest.approx(16 * 2.0 * 730)
    assert found.requests_per_s == pytest.approx(225)
    stored_per_s = 225 * OUTCOME.completions_per_s / OUTCOME.asked_per_s
    assert found.redis_bytes == pytest.approx(stored_per_s * data.parts().redis_ttl_s * data.parts().redis_bytes_per_completion)
    assert found.redis_kv_bytes == 16e6
    assert found.services == max(2, math.ceil(225 * data.parts().cpu_s_per_request / 0.6))
    assert found.cost == found.engines_cost + found.services_cost + found.redis_cost == found.to_json()["cost"]


def test_less_headroom_needs_fewer_engines() -> None:
    """None at all: 10 engines for 300 typists at 30 each, and a spare one."""
    assert whole(3000, headroom=0.0).engines == 11
