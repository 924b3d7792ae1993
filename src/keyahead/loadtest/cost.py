"""What suggestions cost: an API's price for tokens against a server's for hours. Pure; every price is the reader's."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

HOURS_PER_MONTH = 730.0
"""8,760 hours a year by 12: a server is paid for all of them."""


@dataclass(frozen=True, slots=True)
class Prices:
    """In one currency."""

    per_million_tokens_in: float
    per_million_tokens_out: float
    per_server_hour: float
    typing_hours_per_month: float
    """Hours in which a developer types code."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run has measured."""

    tokens_in: float
    tokens_out: float
    """Per suggestion asked for, as an API would count them."""
    suggestions_per_hour: float
    """Of one typist."""
    capacity: int
    """Typists that a server carries at once."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Both ways, in the currency of the prices. A server that carries nobody has no price for a suggestion."""

    prices: Prices
    usage: Usage
    api_per_1000: float
    api_per_developer_month: float
    server_per_1000: float | None
    """When it is used to capacity."""
    server_per_developer_month: float | None
    """When as many developers share it as may type at once."""
    break_even_developers: int | None
    """From how many developers on the servers are cheaper than the API; None: never."""

    def to_json(self) -> dict[str, Any]:
        """As the result file has it, with all it was computed from."""
        return dataclasses.asdict(self)


def cost(prices: Prices, usage: Usage) -> Cost:
    """Both ways compared."""
    api = (usage.tokens_in * prices.per_million_tokens_in + usage.tokens_out * prices.per_million_tokens_out) / 1e6
    api_month = api * usage.suggestions_per_hour * prices.typing_hours_per_month
    server_month = prices.per_server_hour * HOURS_PER_MONTH
    per_hour = usage.capacity * usage.suggestions_per_hour
    return Cost(
        prices=prices,
        usage=usage,
        api_per_1000=api * 1000,
        api_per_developer_month=api_month,
        server_per_1000=prices.per_server_hour / per_hour * 1000 if per_hour else None,
        server_per_developer_month=server_month / usage.capacity if usage.capacity else None,
        break_even_developers=_break_even(api_month, server_month, usage.capacity),
    )


def _break_even(api_month: float, server_month: float, capacity: int) -> int | None:
    """The smallest number of developers for whom as many servers as they need cost no more than the API."""
    if not api_month or not capacity:
        return None
    # With n servers at least server_month * n / api_month developers must share; they fit if that is at most capacity * n.
    developers = math.ceil(server_month / api_month)
    return max(1, developers) if developers <= capacity else None
