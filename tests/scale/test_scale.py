"""Two Tritons, three services, Envoy and a Redis Cluster under typing: sessions stick, and what dies takes only what it worked on.

A short form of benchmarks/scale.py, which also measures how long recovery takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.scale.processes import Whole, whole
from tests.scale.typists import Typists, at_home, at_service, services, strays, typing

pytestmark = pytest.mark.asyncio(loop_scope="session")

PEOPLE = 6
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, smol_folder: Path) -> Iterator[Whole]:
    """All processes, with the small model."""
    with whole(tmp_path_factory.mktemp("whole"), "smollm2-135m", smol_folder) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def people(everything: Whole) -> AsyncIterator[Typists]:
    """People who type all the time."""
    async with typing(everything, PEOPLE) as made:
        await typed_on(made, time.monotonic())
        yield made


async def typed_on(people: Typists, since: float) -> None:
    """Wait until so many calls sent since have ended that whoever is not in a pause has had some."""
    async with asyncio.timeout(PATIENCE_S):
        while sum(call.sent > since for call in people.calls) < 10 * PEOPLE:
            await asyncio.sleep(0.1)


async def test_a_session_has_one_service(everything: Whole, people: Typists) -> None:
    """Nine of ten calls go there, over the editor's own connection; with few people, what is too much for one now and then spills over."""
    assert len(services(people.calls)) > 1
    assert at_home(people.calls) > 0.9


async def test_a_killed_triton_takes_no_more_than_it_was_working_on(everything: Whole, people: Typists) -> None:
    """Its sessions are served by the other one, and services stay ready."""
    victim = everything.engine_of(people.sessions[0])
    await people.at_work([each for each in people.sessions if everything.engine_of(each) is victim])
    at = time.monotonic()
    victim.kill()
    await typed_on(people, at)
    assert strays(people.calls, at, lambda call: everything.engine_of(call.session) is victim) == []
    assert len(everything.edge.healthy()) == 3
    victim.start()


async def test_a_killed_service_takes_no_more_than_it_was_working_on(everything: Whole, people: Typists) -> None:
    """Its sessions are served by the others."""
    homes = await people.homes(people.sessions)
    victim = next(each for each in everything.services if each.address == homes[people.sessions[0]])
    await people.at_work([each for each, home in homes.items() if home == victim.address])
    at = time.monotonic()
    victim.server.kill()
    await typed_on(people, at)
    assert strays(people.calls, at, at_service(homes, victim.address)) == []
    await victim.start()


async def test_a_killed_redis_node_takes_nothing(everything: Whole, people: Typists) -> None:
    """What it held is a miss."""
    at = time.monotonic()
    everything.redis.nodes[0].kill()
    await typed_on(people, at)
    await everything.start_redis(everything.redis.nodes[0])
    await typed_on(people, time.monotonic())
    assert [call for call in people.calls if call.lost and call.done >= at] == []


async def test_restarting_one_of_each_kind_in_turn_loses_nothing(everything: Whole, people: Typists) -> None:
    """A service, a Triton, a Redis node and Envoy: each ends as an orchestrator ends it, and the next one waits for it."""
    for each in everything.tritons:
        await asyncio.to_thread(each.wait)
    at = time.monotonic()
    await everything.restart_service(everything.site.replicas[1])
    await everything.restart_triton(everything.tritons[1])
    await everything.restart_redis(everything.redis.nodes[1])
    await everything.replace_edge()
    await typed_on(people, time.monotonic())
    assert [call for call in people.calls if call.lost and call.done >= at] == []
