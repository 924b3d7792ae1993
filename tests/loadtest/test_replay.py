"""The plain driver."""

from __future__ import annotations

import asyncio

import pytest

from keyahead.loadtest.judge import Answer, Ask, Failed, Outcome, Superseded
from keyahead.loadtest.replay import replay
from keyahead.loadtest.typist import Typist
from tests.loadtest.conftest import plan


@pytest.mark.asyncio
async def test_keys_do_not_wait_for_answers() -> None:
    """The loop is open: while the first answer is out, later keys are hit and asked at their moments."""
    asked: list[tuple[str, str]] = []

    async def system(_typist: int, ask: Ask) -> Answer:
        asked.append((ask.prefix, ask.suffix))
        await asyncio.sleep(0.3 if ask.number == 1 else 0)
        return Answer("bcd"[ask.number - 1 :])

    typist = Typist(plan("abcd", 0.05))
    await replay([typist], system, 1.5)
    assert asked == [("a", "\n"), ("ab", "\n"), ("abc", "\n"), ("abcd", "\n")]
    assert [record.number for record in typist.records] == [2, 3, 4, 1]
    assert [record.on_time for record in typist.records] == [True, True, True, False]


@pytest.mark.asyncio
async def test_every_end_is_recorded() -> None:
    """Superseded, failed and unanswered questions are told apart, and the code of a failure is kept."""

    async def system(_typist: int, ask: Ask) -> Answer:
        if ask.number == 1:
            raise Superseded
        if ask.number == 2:
            raise Failed("UNAVAILABLE")
        await asyncio.sleep(60)
        raise AssertionError

    typist = Typist(plan("abc", 0.05))
    await replay([typist], system, 1.3, grace_s=0.1)
    assert [(record.outcome, record.detail) for record in typist.records] == [
        (Outcome.SUPERSEDED, ""),
        (Outcome.FAILED, "UNAVAILABLE"),
        (Outcome.UNANSWERED, ""),
    ]


@pytest.mark.asyncio
async def test_an_unfinished_answer_is_followed_up() -> None:
    """Asked again once, 300 ms later, as no key came; not where one did."""
    asked: list[Ask] = []

    async def system(_typist: int, ask: Ask) -> Answer:
        asked.append(ask)
        return Answer("", unfinished=True)

    await replay([Typist(plan("abc", 0.05))], system, 2.0)
    assert [(ask.number, ask.follow_up) for ask in asked] == [(1, False), (2, False), (3, False), (3, True)]
    assert asked[3].at_s - asked[2].at_s >= 0.3
