"""Several engines behind one service: sessions stick, what is lost goes on elsewhere, and names are followed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from keyahead.engine import catalogue
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service import fleet as fleet_module
from keyahead.service.fleet import Fleet, _look_up
from keyahead.service.metrics import Metrics
from keyahead.service.model import EngineUnavailable, Query, Source, Trigger
from keyahead.service.pipeline import Pipeline
from keyahead.service.prompt import PromptBuilder
from tests.service.asking import CURSOR, LINE_END, TEXT, ask, query
from tests.service.conftest import MakePipeline, ScriptedEngine

Check = Callable[[Pipeline, list[ScriptedEngine]], Awaitable[None]]


@pytest.fixture
def run(make_pipeline: MakePipeline, tokenizer: Tokenizer) -> Callable[[Check], None]:
    """Runs a coroutine with a pipeline over two engines, and checks that nothing is left running."""

    def runner(check: Check) -> None:
        async def main() -> None:
            engines = [ScriptedEngine(tokenizer, TEXT, seconds_per_token=0.01) for _ in range(2)]
            pipeline = make_pipeline(*engines)
            await check(pipeline, engines)
            await pipeline.aclose()
            assert not pipeline._generations._running
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(main())

    return runner


def asked(session: str, line: int = 0) -> Query:
    """A request that nobody has asked before: each session is a tenant of its own here."""
    return query()._replace(tenant=session, session_id=session, trigger=Trigger.MANUAL, path=f"{line}.py", suffix=f"\n#{line}")


def clients(fleet: Fleet) -> list[object]:
    """The scripted engines that it uses now."""
    return [engine.client for engine in fleet.engines]


def served(engines: list[ScriptedEngine], session: str) -> list[int]:
    """How many calls of a session each engine has had."""
    return [sum(decode.request.namespace == session for decode in engine.decodes) for engine in engines]


async def begun(engine: ScriptedEngine, session: str) -> None:
    """Wait until a session's plain decoding is under way."""
    async with asyncio.timeout(10):
        while sum(decode.num_sent for decode in engine.decodes if decode.request.namespace == session) < 2:
            await asyncio.sleep(0.005)


def home_of(pipeline: Pipeline, engines: list[ScriptedEngine], session: str) -> tuple[ScriptedEngine, ScriptedEngine]:
    """A session's engine, and the other one."""
    at = pipeline._fleet.engines.index(pipeline._fleet.choose(f"{session}\0{session}"))
    return engines[at], engines[1 - at]


def test_a_session_s_requests_go_to_one_engine(run: Callable[[Check], None]) -> None:
    """Whatever its documents; of twenty sessions both engines have some."""

    async def check(pipeline: Pipeline, engines: list[ScriptedEngine]) -> None:
        sessions = [f"s{number}" for number in range(20)]
        await asyncio.gather(*(ask(pipeline, asked(each)) for each in sessions))
        await asyncio.gather(*(ask(pipeline, asked(each, 1)) for each in sessions))
        counts = [served(engines, each) for each in sessions]
        assert all(0 in each for each in counts)
        assert all(engine.decodes for engine in engines)

    run(check)


def test_a_session_falls_over_and_returns(run: Callable[[Check], None]) -> None:
    """While its engine is not ready the other serves it; what the first had read counts for nothing when it is back."""

    async def check(pipeline: Pipeline, engines: list[ScriptedEngine]) -> None:
        home, _ = home_of(pipeline, engines, "s")
        home.ready = False
        assert pipeline.ready
        assert (await ask(pipeline, asked("s"))).text == TEXT[CURSOR:LINE_END]
        assert not home.decodes
        home.ready = True
        known = pipeline._fleet.choose("s\0s")
        assert pipeline._fleet.engines.index(known) == engines.index(home)
        known.read.add("s", tuple(range(64)))
        assert known.client.on_ready
        known.client.on_ready()
        assert known.read.cold_tokens("s", tuple(range(64))) == 64

    run(check)


def test_a_decode_whose_engine_dies_goes_on_at_the_other(run: Callable[[Check], None]) -> None:
    """From the token where it stopped: nothing is decoded twice, and the caller notices nothing."""

    async def check(pipeline: Pipeline, engines: list[ScriptedEngine]) -> None:
        home, other = home_of(pipeline, engines, "s")
        running = asyncio.create_task(ask(pipeline, asked("s")))
        await begun(home, "s")
        home.dead, home.ready = True, False
        answer = await running
        assert (answer.text, answer.source) == (TEXT[CURSOR:LINE_END], Source.ENGINE)
        assert len(other.decodes[0].request.input_ids) > len(home.decodes[0].request.input_ids)
        assert not pipeline._fleet.engines[engines.index(home)].gate._admission.running

    run(check)


def test_a_decode_is_moved_once(run: Callable[[Check], None]) -> None:
    """What has killed two engines is not given to a third, nor back to the first."""

    async def check(pipeline: Pipeline, engines: list[ScriptedEngine]) -> None:
        home, other = home_of(pipeline, engines, "s")
        other.refusal = EngineUnavailable("the engine is gone")
        running = asyncio.create_task(ask(pipeline, asked("s")))
        await begun(home, "s")
        home.refusal = EngineUnavailable("the engine is gone")
        with pytest.raises(EngineUnavailable):
            await running
        assert len(other.decodes) == 1

    run(check)


def test_what_nobody_waits_for_is_not_moved(run: Callable[[Check], None]) -> None:
    """A decode that goes on for the cache's sake ends with its engine."""

    async def check(pipeline: Pipeline, engines: list[ScriptedEngine]) -> None:
        home, other = home_of(pipeline, engines, "s")
        home.seconds_per_token = 0.05
        await ask(pipeline, asked("s"), 0.12)
        home.dead, home.ready = True, False
        await asyncio.sleep(0.1)
        assert not other.decodes
        assert not pipeline._generations._running

    run(check)


def test_a_name_s_addresses_are_followed(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes is connected to; who goes gets nothing new, but what is in flight there may end; a failed look-up changes nothing."""
    found: list[str] = []
    made: dict[str, Closing] = {}
    closed: list[str] = []

    async def look_up(_: str) -> list[str]:
        return found

    class Closing(ScriptedEngine):
        busy = True
        address = ""

        async def aclose(self) -> None:
            closed.append(self.address)

    def connect(address: str) -> fleet_module.Engine:
        made[address] = client = Closing(tokenizer)
        client.address = address
        builder = PromptBuilder(catalogue.get("smollm2-135m"), tokenizer)
        return fleet_module.Engine.of(client, builder, 4, Metrics())  # type: ignore[arg-type]

    async def settled(fleet: Fleet, addresses: list[str]) -> None:
        found[:] = addresses
        async with asyncio.timeout(10):
            while len(fleet.engines) != 2:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)

    async def main() -> None:
        fleet = Fleet(["engines:1"], connect)
        with pytest.raises(EngineUnavailable):
            fleet.choose("k")
        fleet.start()
        await settled(fleet, ["10.0.0.1:1", "10.0.0.2:1"])
        await settled(fleet, ["10.0.0.2:1", "10.0.0.3:1"])
        assert set(made) == {"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"}
        assert made["10.0.0.1:1"] not in clients(fleet)
        assert closed == []
        made["10.0.0.1:1"].busy = False
        async with asyncio.timeout(10):
            while closed != ["10.0.0.1:1"]:
                await asyncio.sleep(0.01)
        await settled(fleet, [])
        assert len(fleet.engines) == 2
        await fleet.aclose()
        assert sorted(closed) == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]
        assert len(asyncio.all_tasks()) == 1

    monkeypatch.setattr(fleet_module, "_look_up", look_up)
    monkeypatch.setattr(fleet_module, "RESOLVE_PERIOD_S", 0.01)
    asyncio.run(main())


def test_a_name_with_addresses_of_two_families_counts_once() -> None:
    """Localhost is mostly both 127.0.0.1 and ::1; what has no address has none, without an error."""
    assert asyncio.run(_look_up("localhost:8801")) in (["127.0.0.1:8801"], ["[::1]:8801"])
    assert asyncio.run(_look_up(f"{'a' * 64}.invalid:8801")) == []
