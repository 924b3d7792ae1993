"""What suggestions cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.cost import HOURS_PER_MONTH, Prices, Usage, cost

PRICES = Prices(per_million_tokens_in=1.0, per_million_tokens_out=4.0, per_server_hour=0.5, typing_hours_per_month=40)
USAGE = Usage(tokens_in=1000, tokens_out=10, suggestions_per_hour=2500, capacity=20)


def test_the_arithmetic() -> None:
    """By hand: 1,000 tokens in and 10 out are 0.00104; 2,500 an hour for 40 hours are 104; a server is 365 a month."""
    found = cost(PRICES, USAGE)
    assert found.api_per_1000 == pytest.approx(1.04)
    assert found.api_per_developer_month == pytest.approx(104)
    assert found.server_per_1000 == pytest.approx(0.5 / 50_000 * 1000)
    assert found.server_per_developer_month == pytest.approx(365 / 20)
    assert found.break_even_developers == 4
    assert found.to_json()["prices"]["per_server_hour"] == 0.5
    assert found.to_json()["usage"]["capacity"] == 20


@given(st.floats(0.01, 100), st.integers(1, 1000))
def test_at_the_break_even_both_cost_the_same(hour: float, capacity: int) -> None:
    """From there on the servers are cheaper, one developer before they are not; or a full server is dearer and they never are."""
    prices = Prices(1.0, 4.0, hour, 40)
    usage = Usage(1000, 10, 2500, capacity)
    found = cost(prices, usage)
    month = hour * HOURS_PER_MONTH
    if found.break_even_developers is None:
        assert capacity * found.api_per_developer_month < month
    else:
        assert found.break_even_developers * found.api_per_developer_month >= month
        assert found.break_even_developers == 1 or (found.break_even_developers - 1) * found.api_per_developer_month < month


def test_a_server_that_carries_nobody() -> None:
    """Has no price for a suggestion, and is never cheaper."""
    found = cost(PRICES, Usage(1000, 10, 2500, 0))
    assert (found.server_per_1000, found.server_per_developer_month) == (None, None)
    assert found.break_even_developers is None
