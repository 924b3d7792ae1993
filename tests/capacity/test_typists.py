"""When people hit keys."""

from __future__ import annotations

import pytest

from keyahead.capacity import typists


def test_people_hit_keys_at_the_rate_of_the_distributions() -> None:
    """So many keys in a second as the mean interval says, in order, and a share of them at new places."""
    people = typists.draw(40, 300.0, 0.05, seed=1)
    keys = [key for person in people for key in person]
    assert len(keys) * typists.mean_interval_s() == pytest.approx(40 * 300, rel=0.05)
    assert sum(key.new_place for key in keys) / len(keys) == pytest.approx(0.05, rel=0.2)
    assert all(person == tuple(sorted(person, key=lambda key: key.at_s)) for person in people)
    assert people == typists.draw(40, 300.0, 0.05, seed=1)
