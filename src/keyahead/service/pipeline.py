"""The life of a request, in order: look up, join, build the prompt, decode, trim, store, answer (docs/design.md).

Authentication and the deadline's rules lie before this, in the server. Everything here runs on the event loop; what blocks is the engine's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time

from keyahead.cache import CacheSettings, Hit, PrefixCache, RedisSettings, open_cache
from keyahead.engine import catalogue
from keyahead.engine.catalogue import Model
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.adapters import TenantAdapters
from keyahead.service.cache_metrics import CacheMetrics
from keyahead.service.config import ServiceConfig
from keyahead.service.engine_client import EngineClient
from keyahead.service.extent import first_lines, num_tokens
from keyahead.service.fleet import Engine, Fleet
from keyahead.service.generation import Generation, Place, Waiter
from keyahead.service.generations import Generations
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, Deadline, FinishReason, Outcome, Query, Show, Source, Superseded, Timings
from keyahead.service.outcomes import EventLog
from keyahead.service.piece import piece_of
from keyahead.service.prompt import PromptBuilder
from keyahead.service.task import Task

CACHE_BUDGET_S = 0.010
"""Longest wait for the cache, and at most a tenth of what is left of the deadline (reference: redis on a 200 ms path)."""
EARLY_S = 0.1
"""An automatic unary request that has waited so long takes whole lines, however short, or `ENOUGH_TOKENS` of one rather than wait for the
rest, which the next key finds: at 100 ms the next key has overtaken 4 % of suggestions, at 150 ms 22 % (data/typing.json). One that joins a
decode takes `ENOUGH_TOKENS` at once."""
_REASONS = {reason.value: reason for reason in FinishReason}
_SOURCES = {source.value: source for source in Source}
"""For hits: calling the enums takes longer."""


def _ms_since(moment: float) -> float:
    return (time.monotonic() - moment) * 1e3


class Pipeline:
    """The completer behind the server. One for each process, on its event loop."""

    def __init__(
        self,
        config: ServiceConfig,
        model: Model,
        tokenizer: Tokenizer,
        fleet: Fleet,
        cache: PrefixCache,
        metrics: Metrics,
        adapters: TenantAdapters | None = None,
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._cache = cache
        self._metrics = metrics
        self._generations = Generations(config, model, tokenizer, fleet, cache, metrics, adapters or TenantAdapters())
        self._sessions = self._generations.sessions
        self._event_log = EventLog(config.event_log) if config.event_log else None

    @property
    def ready(self) -> bool:
        """Whether an engine is reachable and warm."""
        return self._fleet.ready

    async def aclose(self) -> None:
        """Stop all decoding and close the engines' and the cache's connections."""
        await self._fleet.aclose()
        await self._generations.aclose()
        await self._cache.aclose()
        if self._event_log is not None:
            await asyncio.to_thread(self._event_log.close)

    def at_hand(self, query: Query) -> Answer | None:
        """The answer if it lies in memory: that takes no waiting, and nothing of what waiting takes."""
        started = time.monotonic()
        task = self._task(query)
        begin = time.monotonic()
        hit = self._cache.at_hand(task.scope, query.prefix, query.suffix)
        if hit is None:
            return None
        if query.session_id:
            session = (query.tenant, query.session_id)
            self._sessions.enter(session, query.prefix, None)
            self._sessions.choose(session, Place(task.scope, query.prefix, query.suffix), None)
        now = time.monotonic()
        timings = Timings(admit=(begin - started) * 1e3, cache=(now - begin) * 1e3, total=(now - started) * 1e3)
        return self._of_hit(hit, task, timings)

    async def complete(self, query: Query, deadline: Deadline, show: Show) -> Answer:
        """What is not at hand, by the deadline, and before it what can be shown. Raises Superseded and EngineUnavailable."""
        started = time.monotonic()
        task = self._task(query)
        session = (query.tenant, query.session_id)
        waiter = Waiter(Place(task.scope, query.prefix, query.suffix), deadline, query.work_class)
        self._sessions.enter(session, query.prefix, waiter)
        try:
            waiter.timings.admit = _ms_since(started)
            answer = await self._fetch(waiter, task)
            generation = None if answer else self._generations.find(waiter.place)
            if answer:
                self._sessions.choose(session, waiter.place, None)
            source = Source.IN_FLIGHT
            while answer is None:
                if generation is None:
                    self._sessions.choose(session, waiter.place, None)  # The older one leaves its place before another is asked for.
                    generation, source = self._begin(query, task, waiter), Source.ENGINE
                self._sessions.choose(session, waiter.place, generation)
                await self._follow(generation, waiter, task, source, show)
                answer = self._answer(generation, waiter, task, source)
                generation = None
            waiter.timings.total = _ms_since(started)
            return answer
        finally:
            self._sessions.leave(session, waiter)

    def warm(self, query: Query) -> None:
        """Have the engine read a prompt before anybody asks; what it has read stays."""
        self._generations.warm(query)

    def cool(self, query: Query) -> None:
        """Nobody will ask about this document: end `warm`."""
        self._generations.cool(query)

    def outcome(self, tenant: str, outcome: Outcome) -> None:
        """A client has told what became of a suggestion: to the arbiter, that is evidence for its rest as a draft."""
        self._sessions.settled((tenant, outcome.session_id), taken=outcome.accepted_chars > 0)
        self._metrics.settled(outcome)
        if self._event_log is not None:
            self._event_log.append(outcome)

    def _task(self, query: Query) -> Task:
        return Task(query, self._config, self._generations.fingerprint(query.tenant))

    async def _fetch(self, waiter: Waiter, task: Task) -> Answer | None:
        begin = time.monotonic()
        budget = max(0.0, min(CACHE_BUDGET_S, waiter.deadline.remaining() / 10))
        hit = await self._cache.fetch(waiter.place.scope, waiter.place.prefix, waiter.place.suffix, budget)
        waiter.timings.cache = _ms_since(begin)
        if waiter.superseded:
            raise Superseded
        return self._of_hit(hit, task, waiter.timings) if hit else None

    def _of_hit(self, hit: Hit, task: Task, timings: Timings) -> Answer:
        entry, source = hit.entry, _SOURCES[hit.tier]
        lines = first_lines(entry.text, entry.token_ends)
        # In this order: whether it is cut by lines takes the text around the cursor to tell.
        if lines is not None and task.by_lines:
            text, reason = lines, FinishReason.STOP
        else:
            text, reason = entry.text, _REASONS[entry.finish_reason]
        return self._judged(Answer(text, reason, source, 0, num_tokens(text, entry.token_ends), timings, entry.p_accept))

    def _begin(self, query: Query, task: Task, waiter: Waiter) -> Generation:
        begin = time.monotonic()
        generation = self._generations.begin(query, task, waiter.place, waiter.deadline)
        waiter.timings.prompt = _ms_since(begin)
        return generation

    async def _follow(self, generation: Generation, waiter: Waiter, task: Task, source: Source, show: Show) -> None:
        """Wait until a generation has the answer, disagrees with what was typed, or the deadline comes; show what can be shown."""
        begin = time.monotonic()
        shown = ""
        joined = source is Source.IN_FLIGHT
        keep = False
        generation.waiters.add(waiter)
        try:
            while not generation.done and waiter.deadline.remaining() > 0 and generation.agrees(waiter.place):
                early = not task.patient and time.monotonic() - begin >= EARLY_S
                piece = piece_of(generation, waiter.place, task, early=early)
                if piece.settled or (piece.enough and (early or (joined and not task.patient))):
                    break
                if len(piece.ghost) > len(shown) and piece.ghost.startswith(shown) and piece.p_accept >= self._config.min_p_accept:
                    await show(piece.ghost[len(shown) :])
                    shown = piece.ghost
                await waiter.wait(None if early or task.patient else begin + EARLY_S)
            keep = generation.agrees(waiter.place)
        except Superseded:
            keep = True  # The newer request decides.
            raise
        except asyncio.CancelledError:
            self._metrics.cancels.labels("decode" if generation.first_token_at else "prefill").inc()
            raise
        finally:
            generation.waiters.discard(waiter)
            if not keep and not generation.wanted:
                generation.stop()  # The client has left, or typed something else.
            now = time.monotonic()
            first = min(max(generation.first_token_at or now, begin), now)
            waiter.timings.first_token = (first - begin) * 1e3
            waiter.timings.decode = (now - first) * 1e3

    def _answer(self, generation: Generation, waiter: Waiter, task: Task, source: Source) -> Answer | None:
        """The best so far; None if it is not what has been typed, or if another's generation failed."""
        if generation.error is not None and source is Source.ENGINE:
            raise generation.error
        if not generation.agrees(waiter.place):
            return None
        begin = time.monotonic()
        early = not task.patient and waiter.timings.first_token + waiter.timings.decode >= EARLY_S * 1e3
        piece = piece_of(generation, waiter.place, task, early=early)
        unfinished = FinishReason.PARTIAL if waiter.deadline.remaining() > 0 else FinishReason.DEADLINE
        reason = FinishReason.STOP if piece.settled else (generation.decoding.finish if generation.done else None) or unfinished
        waiter.timings.trim = _ms_since(begin)
        return self._judged(
            Answer(piece.text, reason, source, len(generation.prompt.tokens), piece.num_tokens, waiter.timings, piece.p_accept)
        )

    def _judged(self, answer: Answer) -> Answer:
        """The answer, or nothing if the operator wants only likelier ones."""
        if not answer.text or answer.p_accept >= self._config.min_p_accept:
            return answer
        return dataclasses.replace(answer, text="", finish_reason=FinishReason.WITHHELD, completion_tokens=0)


def build(config: ServiceConfig, metrics: Metrics, adapters: TenantAdapters | None = None) -> Pipeline:
    """The real pipeline, connecting; to be called on the running event loop."""
    if config.model_folder is None:
        raise ValueError("model_folder (KEYAHEAD_MODEL_FOLDER) is required")
    model = catalogue.get(config.model_name)
    key = hashlib.blake2b(config.cache_key, digest_size=32, person=b"keyahead-cache").digest()
    redis = RedisSettings(config.redis_url, key) if config.redis_url else None
    cache = open_cache(CacheSettings(redis=redis), CacheMetrics(metrics))
    tokenizer = Tokenizer.load(config.model_folder)
    builder = PromptBuilder(model, tokenizer)

    def connect(address: str) -> Engine:
        return Engine.of(EngineClient(address, adapters), builder, config.engine_places, metrics)

    fleet = Fleet(config.triton_address.split(","), connect)
    fleet.start()
    return Pipeline(config, model, tokenizer, fleet, cache, metrics, adapters)
