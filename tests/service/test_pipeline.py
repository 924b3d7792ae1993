"""The life of a request over a scripted engine: caching, joining, deadlines, sessions, cancels."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable

import pytest

from keyahead.service.drafting.sources import Suggestions
from keyahead.service.engine_client import EngineError
from keyahead.service.generation import Place
from keyahead.service.model import (
    Deadline,
    EngineUnavailable,
    FinishReason,
    Mode,
    Outcome,
    OutcomeKind,
    Overloaded,
    Query,
    Source,
    Superseded,
    Trigger,
)
from keyahead.service.pipeline import Pipeline
from keyahead.service.task import Task
from tests.service.asking import CURSOR, LINE_END, TEXT, ask, noting, query
from tests.service.conftest import ScriptedEngine


def test_a_request_is_decoded_healed_and_trimmed(run: Callable[..., None]) -> None:
    """Each call continues the prompt where the last one ended; log-probabilities are never asked of a stream that may be cancelled."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        answer = await ask(pipeline, query())
        assert answer.text == TEXT[CURSOR:LINE_END]
        assert (answer.source, answer.finish_reason) == (Source.ENGINE, FinishReason.STOP)
        requests = [decode.request for decode in engine.decodes]
        for earlier, later in itertools.pairwise(requests):
            assert later.input_ids[: len(earlier.input_ids)] == earlier.input_ids
        assert not any(request.streaming and request.return_log_probs for request in requests)

    run(check)


def test_a_line_end_that_is_healed_ends_no_line(run: Callable[..., None]) -> None:
    """At a line's start the token taken back is a line end, a stop word of a single line: the line is answered all the same."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        start = TEXT.index("    return")
        answer = await ask(pipeline, query(start, trigger=Trigger.MANUAL))
        assert answer.text == TEXT[start:LINE_END]

    run(check)


def test_what_was_typed_through_needs_no_engine(run: Callable[..., None]) -> None:
    """Every further character of the suggestion is answered from memory with the rest of it."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        await ask(pipeline, query())
        await asyncio.sleep(0.01)
        calls = len(engine.decodes)
        for at in range(CURSOR, LINE_END - 1):
            answer = await ask(pipeline, query(at))
            assert (answer.text, answer.source) == (TEXT[at:LINE_END], Source.MEMORY)
        assert len(engine.decodes) == calls

    run(check)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("accepted_chars", [0, 3])
def test_what_became_of_a_suggestion_is_evidence_for_its_use_as_a_draft(run: Callable[..., None], early: bool, accepted_chars: int) -> None:
    """Of the newest of its tenant's session only, whether it is still being decoded or not."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        session = ("a", "s1")
        kind = OutcomeKind.PARTIAL if accepted_chars else OutcomeKind.REJECTED
        outcome = Outcome(kind, "r1", "s1", 9, accepted_chars, Source.ENGINE, 1.0)
        asked = asyncio.create_task(ask(pipeline, query(tenant="a", session_id="s1")))
        await (asyncio.sleep(0.05) if early else asked)
        pipeline.outcome("b", outcome)
        assert [each.taken for each in pipeline._sessions.suggested(session)] == [None]
        pipeline.outcome("a", outcome)
        await asked
        await asyncio.sleep(0.01)
        assert [each.taken for each in pipeline._sessions.suggested(session)] == [accepted_chars > 0]

    run(check, seconds_per_token=0.02 if early else 0.0)


def test_tenants_share_nothing(run: Callable[..., None]) -> None:
    """A then B decodes anew, A then A does not; the engine is told the tenant as its KV namespace; each drafts from its own answers."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        for tenant, source in (("a", Source.ENGINE), ("b", Source.ENGINE), ("a", Source.MEMORY), ("b", Source.MEMORY)):
            assert (await ask(pipeline, query(tenant=tenant))).source is source
            await asyncio.sleep(0.01)
        assert {decode.request.namespace for decode in engine.decodes} == {"a", "b"}
        assert set(pipeline._generations._answers) == {"a", "b"}

    run(check)


@pytest.mark.parametrize(("mine", "other"), [("a", "b"), ("a/jo", "a/mo")], ids=["tenants", "users"])
def test_no_decode_in_flight_and_no_draft_is_another_s(run: Callable[..., None], mine: str, other: str) -> None:
    """At the same place, in sessions of the same name: another's decode is not joined, while one's own is; nor are another's suggestions,
    running, ended or hanging near, among what drafts are taken from.
    """

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        def offered(tenant: str) -> list[str]:
            asked = query(tenant=tenant, session_id="s")
            place = Place(Task(asked, pipeline._config, pipeline._generations.fingerprint(tenant)).scope, asked.prefix, asked.suffix)
            sources = pipeline._generations._sources(asked, place)
            return [each.text for source in sources if isinstance(source, Suggestions) for each in source.offered]

        first = asyncio.create_task(ask(pipeline, query(tenant=mine, session_id="s", trigger=Trigger.MANUAL)))
        await asyncio.sleep(0.03)
        assert offered(mine)
        assert not offered(other)
        joined = asyncio.create_task(ask(pipeline, query(tenant=mine, trigger=Trigger.MANUAL)))
        assert (await ask(pipeline, query(tenant=other, trigger=Trigger.MANUAL))).source is Source.ENGINE
        assert (await joined).source is Source.IN_FLIGHT
        await first
        await asyncio.sleep(0.05)
        assert len(offered(mine)) >= 2
        assert not offered("c")

    run(check, seconds_per_token=0.01)


def test_a_running_decode_is_joined_while_it_agrees(run: Callable[..., None]) -> None:
    """Two users of one tenant at the same place, one of them two keys ahead: one decode."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        first = asyncio.create_task(ask(pipeline, query(trigger=Trigger.MANUAL)))
        await asyncio.sleep(0.03)
        second = await ask(pipeline, query(CURSOR + 2, trigger=Trigger.MANUAL))
        assert second.source is Source.IN_FLIGHT
        assert second.text == TEXT[CURSOR + 2 : LINE_END]
        assert (await first).text == TEXT[CURSOR:LINE_END]
        assert not any(a.request.input_ids == b.request.input_ids for a, b in itertools.pairwise(engine.decodes))

    run(check, seconds_per_token=0.005)


def test_the_deadline_is_kept_and_the_rest_goes_into_the_cache(run: Callable[..., None]) -> None:
    """The best so far comes in time, marked; later the whole is in memory."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        answer = await ask(pipeline, query(), 0.08)
        assert loop.time() - begin < 0.5
        assert answer.finish_reason is FinishReason.DEADLINE
        assert TEXT[CURSOR:LINE_END].startswith(answer.text)
        for _ in range(200):
            await asyncio.sleep(0.02)
            if not pipeline._generations._running:
                break
        later = await ask(pipeline, query())
        assert (later.source, later.text) == (Source.MEMORY, TEXT[CURSOR:LINE_END])

    run(check, seconds_per_token=0.02)


def test_a_decode_too_slow_even_for_the_cache_leaves_what_it_has(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """When the engine ends it at its own deadline, the part decoded so far is found by the next request."""
    monkeypatch.setattr("keyahead.service.generations.LINGER_S", 1.5)

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        assert (await ask(pipeline, query(), 0.02)).finish_reason is FinishReason.DEADLINE
        await asyncio.sleep(2.0)
        later = await ask(pipeline, query())
        assert later.source is Source.MEMORY
        assert later.finish_reason is FinishReason.DEADLINE
        assert len(later.text) > 10
        assert TEXT[CURSOR:LINE_END].startswith(later.text)

    run(check, seconds_per_token=0.12)


def test_an_engine_that_does_not_end_is_left_at_the_deadline(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-LLM's backend knows no deadlines: the answer is in time all the same, and the decode stopped, so that its place is free."""
    monkeypatch.setattr("keyahead.service.generations.LINGER_S", 0.1)

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        assert (await ask(pipeline, query(), 0.05)).finish_reason is FinishReason.DEADLINE
        for _ in range(200):
            await asyncio.sleep(0.02)
            if not pipeline._generations._running:
                break
        assert not pipeline._generations._running
        assert [decode.stopped for decode in engine.decodes] == [True]

    run(check, seconds_per_token=3600)


def test_an_automatic_request_takes_enough_early(run: Callable[..., None]) -> None:
    """After a while six tokens are given rather than the whole awaited; asked by hand, the whole."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        early = await ask(pipeline, query())
        assert early.finish_reason is FinishReason.PARTIAL
        assert 6 <= early.completion_tokens < 20
        whole = await ask(pipeline, query(trigger=Trigger.MANUAL))
        assert whole.text == TEXT[CURSOR:LINE_END]

    run(check, seconds_per_token=0.02)


@pytest.mark.parametrize(("mode", "reason"), [(Mode.AUTO, FinishReason.STOP), (Mode.BLOCK, FinishReason.PARTIAL)])
def test_a_whole_short_line_is_given_early_while_the_next_is_decoded(run: Callable[..., None], mode: Mode, reason: FinishReason) -> None:
    """It is whole once its end has been decoded, whatever there is of the line behind it: it is not cut by the deadline. More of a block
    follows.
    """

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        answer = await ask(pipeline, query(TEXT.index("dius):"), mode=mode), 0.5)
        assert (answer.text, answer.finish_reason) == ("dius):", reason)

    run(check, seconds_per_token=0.028)


def test_a_newer_request_supersedes_the_older_one(run: Callable[..., None]) -> None:
    """The old call ends at once, and its decode is stopped when the new text disagrees with it."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        old = asyncio.create_task(ask(pipeline, query(session_id="s")))
        await asyncio.sleep(0.05)
        elsewhere = Query("import os\n", "\n", path="a.py", session_id="s")
        new = asyncio.create_task(ask(pipeline, elsewhere, 0.3))
        with pytest.raises(Superseded):
            await old
        assert engine.decodes[-2].stopped or engine.decodes[0].stopped
        sent = engine.decodes[0].num_sent + engine.decodes[1].num_sent
        await asyncio.sleep(0.1)
        assert engine.decodes[0].num_sent + engine.decodes[1].num_sent <= sent + 1
        await new

    run(check, seconds_per_token=0.02)


def test_the_next_key_keeps_an_agreeing_decode(run: Callable[..., None]) -> None:
    """Typing what is being decoded supersedes the call but not the work."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        typed = [query(at, session_id="s", trigger=Trigger.MANUAL) for at in range(CURSOR, CURSOR + 6)]
        answers = [await ask(pipeline, each, 0.03) for each in typed]
        assert {answer.source for answer in answers[1:]} <= {Source.IN_FLIGHT, Source.MEMORY}
        assert len({decode.request.input_ids for decode in engine.decodes}) == len(engine.decodes)

    run(check, seconds_per_token=0.02)


def test_an_answer_at_hand_supersedes_an_older_request_too(run: Callable[..., None]) -> None:
    """Its session's decode for something else ends, and what its user has deleted is known."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        await ask(pipeline, query())
        await asyncio.sleep(0.01)
        engine.seconds_per_token = 0.02
        elsewhere = query(session_id="s", trigger=Trigger.MANUAL, max_tokens=7)
        older = asyncio.create_task(ask(pipeline, elsewhere._replace(prefix=TEXT[:CURSOR] + "zq")))
        await asyncio.sleep(0.03)
        assert (await ask(pipeline, query(session_id="s"))).source is Source.MEMORY
        with pytest.raises(Superseded):
            await older
        assert engine.decodes[-1].stopped
        assert pipeline._sessions.deleted(("default", "s")) == "zq"

    run(check)


def test_a_client_that_leaves_frees_the_engine(run: Callable[..., None]) -> None:
    """Cancelling the only request stops its decode; with another waiting it goes on."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        alone = asyncio.create_task(ask(pipeline, query()))
        await asyncio.sleep(0.03)
        alone.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert engine.decodes[-1].stopped
        await asyncio.sleep(0.05)
        one = asyncio.create_task(ask(pipeline, query(trigger=Trigger.MANUAL)))
        other = asyncio.create_task(ask(pipeline, query(trigger=Trigger.MANUAL)))
        await asyncio.sleep(0.03)
        one.cancel()
        assert (await other).text == TEXT[CURSOR:LINE_END]

    run(check, seconds_per_token=0.01)


def test_a_dead_engine_is_unavailable_but_hits_go_on(run: Callable[..., None]) -> None:
    """Requests in flight fail as unavailable, new ones too, and what is in memory is still answered."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        await ask(pipeline, query())
        await asyncio.sleep(0.01)
        engine.seconds_per_token = 0.02
        running = asyncio.create_task(ask(pipeline, Query(TEXT[:60], "\n", path="b.py")))
        await asyncio.sleep(0.03)
        engine.dead = True
        with pytest.raises(EngineUnavailable):
            await running
        with pytest.raises(EngineUnavailable):
            await ask(pipeline, Query(TEXT[:50], "\n", path="b.py"))
        assert (await ask(pipeline, query())).source is Source.MEMORY

    run(check)


@pytest.mark.parametrize(
    "refusal", [EngineError("INVALID_ARGUMENT: input_ids: bad"), Overloaded("full", 1.0), ZeroDivisionError("a defect")]
)
def test_a_refusal_of_the_engine_is_passed_on(run: Callable[..., None], refusal: Exception) -> None:
    """It is raised once, not tried again and again."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        with pytest.raises(type(refusal)):
            await ask(pipeline, query())
        assert len(engine.decodes) == 1

    run(check, refusal=refusal)


def test_an_unlikely_suggestion_is_withheld_if_the_operator_says_so(run: Callable[..., None]) -> None:
    """Decoded and cached all the same; the answer tells how likely it was, and nothing of it is shown on the way."""

    async def check(pipeline: Pipeline, engine: ScriptedEngine) -> None:
        assert 0 < (await ask(pipeline, query(trigger=Trigger.MANUAL))).p_accept < 1
        pipeline._config = dataclasses.replace(pipeline._config, min_p_accept=1.0)
        for asked in (query(trigger=Trigger.MANUAL), query(CURSOR + 1, trigger=Trigger.MANUAL, tenant="b", streamed=True)):
            shown: list[str] = []
            withheld = pipeline.at_hand(asked) or await pipeline.complete(asked, Deadline.after(5), noting(shown))
            assert (withheld.text, shown) == ("", [])
            assert withheld.finish_reason is FinishReason.WITHHELD
            assert withheld.p_accept > 0

    run(check)
