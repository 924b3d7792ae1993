"""How fast people type."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest import pace

PUBLISHED = json.loads((Path(__file__).parents[2] / "data/typing.json").read_text())


def test_the_constants_are_the_published_figures() -> None:
    """Every figure that claims to come from data/typing.json does."""
    intervals = PUBLISHED["typed_through_interval_ms"]
    bursts = intervals["under_2s"]
    assert dict(pace.BURST_S) == pytest.approx({p / 100: bursts[f"p{p}"] / 1000 for p in (1, 5, 10, 25, 50, 75, 90, 99)})
    assert pytest.approx(1 - bursts["n"] / intervals["all"]["n"]) == pace.PAUSE_SHARE
    assert dict(pace.PAUSES_S[1:]) == pytest.approx({p / 100: intervals["all"][f"p{p}"] / 1000 for p in (90, 95, 99)})
    decisions = PUBLISHED["decision_seconds"]["accepted"]
    assert dict(pace.ACCEPT_S) == pytest.approx({p / 100: decisions[f"p{p}"] for p in (5, 10, 25, 50, 75, 90, 95, 99)})
    assert PUBLISHED["replays_per_suggestion"]["share_ge1"] == pace.TYPED_THROUGH_SHARE
    through = PUBLISHED["replays_per_suggestion"]["q"]
    assert dict(pace.TYPED_THROUGH_KEYS[1:]) == pytest.approx({p / 100: through[f"p{p}"] for p in (75, 90, 95, 99)})


def test_intervals_have_the_published_shape() -> None:
    """Quantiles of drawn intervals lie within a tenth of the published ones."""
    rng = random.Random(1)
    drawn = sorted(pace.interval_s(rng) * 1000 for _ in range(20_000))
    published = PUBLISHED["typed_through_interval_ms"]["all"]
    for percent in (10, 25, 50, 75, 90, 95):
        assert drawn[percent * 200] == pytest.approx(published[f"p{percent}"], rel=0.1)


@given(st.integers())
def test_draws_stay_within_their_bounds(seed: int) -> None:
    """A burst has no pause, a pause is no burst, and nobody rests for ever."""
    rng = random.Random(seed)
    assert 0.078 <= pace.burst_s(rng) < pace.PAUSE_FROM_S <= pace.pause_s(rng) <= 22.21
    assert 0.7 < pace.accept_s(rng) < 34
    assert 0 <= pace.typed_through_keys(rng) <= 12
