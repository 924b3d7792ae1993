"""Prompts read ahead: one for each session, and none twice."""

from __future__ import annotations

import asyncio

import pytest

from keyahead.engine.contract import WorkClass
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.cold import PrefillRate, ReadPrompts
from keyahead.service.gate import Gate
from keyahead.service.metrics import Metrics
from keyahead.service.prompt import Prompt
from keyahead.service.read_ahead import ReadAhead
from tests.service.conftest import ScriptedEngine

PROMPT = Prompt(tuple(range(200)))


def made(tokenizer: Tokenizer) -> tuple[ReadAhead, ScriptedEngine, ReadPrompts]:
    engine = ScriptedEngine(tokenizer, "x = 1\n" * 50, seconds_per_token=0.02)
    read, rate = ReadPrompts(), PrefillRate()
    return ReadAhead(Gate(8, read, rate, Metrics()), engine, read, rate), engine, read  # type: ignore[arg-type]


def test_a_prompt_is_read_once_and_known_then(tokenizer: Tokenizer) -> None:
    """Asked again with a few more tokens at its end, the reading goes on; it asks for one token, as warming, with the tenant's weight."""

    async def main() -> None:
        ahead, engine, read = made(tokenizer)
        ahead.start(("a", "s"), PROMPT, 2)
        ahead.start(("a", "s"), Prompt((*PROMPT.tokens[:-10], *range(900, 930))), 2)
        await asyncio.sleep(0.1)
        (decode,) = engine.decodes
        assert (decode.request.work_class, decode.request.weight, decode.request.max_new_tokens) == (WorkClass.WARMING, 2, 1)
        assert read.cold_tokens("a", PROMPT.tokens) < 16
        await ahead.aclose()
        assert not ahead._tasks
        assert not ahead._readings

    asyncio.run(main())


def test_another_document_of_the_session_ends_the_first(tokenizer: Tokenizer) -> None:
    """Only what the session is at now is read; another session's goes on."""

    async def main() -> None:
        ahead, engine, read = made(tokenizer)
        ahead.start(("a", "s"), PROMPT, 1)
        ahead.start(("a", "t"), PROMPT, 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ahead.start(("a", "s"), Prompt(tuple(range(500, 700))), 1)
        await asyncio.sleep(0.1)
        assert [decode.stopped for decode in engine.decodes] == [True, False, False]
        assert read.cold_tokens("a", tuple(range(500, 700))) < 16
        await ahead.aclose()

    asyncio.run(main())


def test_an_engine_that_does_not_end_is_left(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the prompt is not worth its time any more; its place is free then."""
    monkeypatch.setattr("keyahead.service.read_ahead.DEADLINE_S", 0.1)

    async def main() -> None:
        ahead, engine, _ = made(tokenizer)
        engine.seconds_per_token = 3600
        ahead.start(("a", "s"), PROMPT, 1)
        await asyncio.wait_for(ahead.aclose(), 5)
        assert [decode.stopped for decode in engine.decodes] == [True]

    asyncio.run(main())


def test_a_dead_engine_or_no_place_is_no_error(tokenizer: Tokenizer) -> None:
    """Nobody waits for it, so nobody is told."""

    async def main() -> None:
        ahead, engine, read = made(tokenizer)
        for session in range(12):
            ahead.start(("a", str(session)), PROMPT, 1)
        await asyncio.sleep(0.005)
        assert 0 < len(engine.decodes) <= 8
        engine.dead = True
        ahead.start(("b", "s"), PROMPT, 1)
        await ahead.aclose()
        assert read.cold_tokens("b", PROMPT.tokens) == 200

    asyncio.run(main())
