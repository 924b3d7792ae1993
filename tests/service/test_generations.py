"""Decodes behind the pipeline: who gets the engine, cold prompts, cancels, and what is decoded ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from keyahead.engine.contract import WorkClass
from keyahead.service.model import (
    FinishReason,
    Mode,
    Overloaded,
    Query,
    Source,
    Trigger,
)
from keyahead.service.pipeline import Pipeline
from tests.service.asking import CURSOR, LINE_END, TEXT, ask, query
from tests.service.conftest import ScriptedEngine


def test_the_engine_is_told_who_waits(run: Callable[..., None]) -> None:
    """Every call of a generation carries its class and its tenant's weight."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        pipeline._generations._weights = {"big": 3}
        await ask(pipeline, query(tenant="big", trigger=Trigger.MANUAL))
        await ask(pipeline, query(tenant="small"))
        told = [(decode.request.work_class, decode.request.weight) for decode in engine.decodes]
        assert set(told) == {(WorkClass.MANUAL, 3), (WorkClass.AUTOMATIC, 1)}

    run(check)


def elsewhere(number: int, **changes: Any) -> Query:
    """A request that joins no other, although it is asked the same."""
    return query()._replace(suffix=f"\n# {number}\n", **changes)


def test_what_finds_no_place_in_time_ends_with_nothing(run: Callable[..., None]) -> None:
    """A tenant has so many places at the engine; who waits beyond its deadline gets an empty answer, and its work is never begun."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        places = [asyncio.create_task(ask(pipeline, elsewhere(turn, trigger=Trigger.MANUAL))) for turn in range(12)]
        await asyncio.sleep(0.01)
        assert len(engine.decodes) == 12
        answer = await ask(pipeline, Query("import os\n", "\n", path="b.py"), 0.05)
        assert (answer.text, answer.finish_reason) == ("", FinishReason.DEADLINE)
        assert (await ask(pipeline, query(tenant="b"))).text
        await asyncio.gather(*places)
        assert not any("import os" in engine.tokenizer.decode(decode.request.input_ids) for decode in engine.decodes)

    run(check, seconds_per_token=0.01)


def test_a_cold_prompt_is_shortened_and_the_whole_read_behind_it(run: Callable[..., None]) -> None:
    """The answer comes from the short one, is short and not kept; the whole is read as warming, and then used by the next request."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        before = "".join(f"value_{number} = {number}\n" for number in range(50))
        engine.text = before + TEXT
        pipeline._fleet.engines[0].rate.s_per_token = 1 / 300
        asked = query()._replace(prefix=before + TEXT[:CURSOR])
        answer = await ask(pipeline, asked, 0.3)
        assert TEXT[CURSOR:LINE_END].startswith(answer.text)
        assert 6 <= answer.completion_tokens <= 12
        assert answer.source is Source.ENGINE
        assert answer.prompt_tokens <= 45
        await asyncio.sleep(0.05)
        warming = next(decode for decode in engine.decodes if decode.request.work_class is WorkClass.WARMING)
        assert len(warming.request.input_ids) > 200
        again = await ask(pipeline, asked, 0.3)
        assert (again.source, again.prompt_tokens) == (Source.ENGINE, len(warming.request.input_ids))
        await asyncio.sleep(0.01)
        assert (await ask(pipeline, asked)).source is Source.MEMORY

    run(check)


def test_a_request_that_cannot_be_on_time_is_refused(run: Callable[..., None]) -> None:
    """Cold prompts of one tenant, each needing most of the time: a later one is refused with a hint, and served when they are read."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        pipeline._fleet.engines[0].rate.s_per_token = 0.4 / len(pipeline._generations._builder.build(query()).tokens)
        first = [asyncio.create_task(ask(pipeline, elsewhere(turn), 0.6)) for turn in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="a wait of") as refusal:
            await ask(pipeline, elsewhere(2), 0.6)
        assert refusal.value.retry_after_s == pytest.approx(0.8)
        await asyncio.sleep(0.1)
        assert (await ask(pipeline, elsewhere(2), 0.6)).text
        await asyncio.gather(*first)

    run(check, seconds_per_token=0.03)


def test_many_cancelled_requests_leave_nothing(run: Callable[..., None]) -> None:
    """Two thousand requests cancelled at random moments leave no task and no generation; `run` checks it."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        for turn in range(2000):
            task = asyncio.create_task(ask(pipeline, query(CURSOR + turn % 7, session_id=f"s{turn % 5}", tenant=f"t{turn}")))
            for _ in range(turn % 6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert not pipeline._generations._running

    run(check, seconds_per_token=0.001)


def test_what_follows_a_suggestion_is_decoded_while_the_engine_is_idle(run: Callable[..., None]) -> None:
    """Taking a suggestion finds the next one in memory; it was background work, and is not followed by another prefetch."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        answer = await ask(pipeline, query(trigger=Trigger.MANUAL, mode=Mode.BLOCK, max_tokens=8))
        taken = CURSOR + len(answer.text)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if engine.decodes[-1].request.work_class is WorkClass.BACKGROUND and not pipeline._generations._running:
                break
        calls = len(engine.decodes)
        then = await ask(pipeline, query(taken, trigger=Trigger.MANUAL, mode=Mode.BLOCK, max_tokens=8))
        assert then.source is Source.MEMORY
        assert TEXT[taken:].startswith(then.text)
        await asyncio.sleep(0.1)
        assert len(engine.decodes) == calls

    run(check)


@pytest.mark.parametrize("trigger", Trigger)
def test_what_joins_a_prefetch_makes_it_as_urgent_as_itself(run: Callable[..., None], trigger: Trigger) -> None:
    """From its next call to the engine on."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        answer = await ask(pipeline, query(trigger=Trigger.MANUAL, mode=Mode.BLOCK, max_tokens=8))
        while engine.decodes[-1].request.work_class is not WorkClass.BACKGROUND:
            await asyncio.sleep(0.005)
        begun = len(engine.decodes)
        joining = query(CURSOR + len(answer.text), trigger=trigger, mode=Mode.BLOCK, max_tokens=8)
        assert (await ask(pipeline, joining)).source is Source.IN_FLIGHT
        assert {decode.request.work_class for decode in engine.decodes[begun:]} == {joining.work_class}

    run(check, seconds_per_token=0.02)


def test_a_prefetch_ends_when_somebody_asks(run: Callable[..., None]) -> None:
    """Its decode is stopped before the request's own begins."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        await ask(pipeline, query(trigger=Trigger.MANUAL, mode=Mode.BLOCK, max_tokens=8))
        while engine.decodes[-1].request.work_class is not WorkClass.BACKGROUND:
            await asyncio.sleep(0.005)
        prefetching = engine.decodes[-1]
        await ask(pipeline, Query("import os\n", "\n", path="b.py"), 0.1)
        assert prefetching.stopped

    run(check, seconds_per_token=0.03)
