"""When people hit keys."""

from __future__ import annotations

import pytest

from keyahead.capacity import typists
from keyahead.loadtest.plan import make_plan
from keyahead.loadtest.texts import from_folder


def test_people_hit_keys_at_the_rate_of_the_distributions() -> None:
    """So many keys in a second as the mean interval says, in order, and a share of them at new places."""
    people = typists.draw(40, 300.0, 0.05, seed=1)
    keys = [key for person in people for key in person]
    assert len(keys) * typists.mean_interval_s() == pytest.approx(40 * 300, rel=0.05)
    assert sum(key.new_place for key in keys) / len(keys) == pytest.approx(0.05, rel=0.2)
    assert all(person == tuple(sorted(person, key=lambda key: key.at_s)) for person in people)
    assert people == typists.draw(40, 300.0, 0.05, seed=1)


def test_a_plan_gives_its_keys_that_ask() -> None:
    """Their moments, and the first at each passage as a new place."""
    plan = make_plan(from_folder(), 0, 0, 1, 900.0)
    (person,) = typists.from_plans([plan])
    assert [key.at_s for key in person] == [key.at_s for key in plan.keys if key.asks]
    assert sum(key.new_place for key in person) == len({key.passage for key in plan.keys if key.asks}) > 1
