"""The life of a request, in order: look up, join, build the prompt, decode, trim, store, answer (docs/design.md).

Authentication and the deadline's rules lie before this, in the server. Everything here runs on the event loop; what blocks is the engine's.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from keyahead.cache import CacheSettings, Entry, PrefixCache, RedisSettings, Scope, open_cache
from keyahead.engine import catalogue
from keyahead.engine.catalogue import Model
from keyahead.engine.contract import MAX_DRAFTS, EngineRequest, WorkClass
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.admission import Ticket
from keyahead.service.cache_metrics import CacheMetrics
from keyahead.service.cold import Planner, PrefillRate, ReadPrompts
from keyahead.service.config import ServiceConfig
from keyahead.service.decoding import Decoding
from keyahead.service.drafting.arbiter import Arbiter
from keyahead.service.drafting.sources import Document, Suggestions
from keyahead.service.drafting.sources import Source as DraftSource
from keyahead.service.engine_client import EngineClient
from keyahead.service.extent import ENOUGH_TOKENS, first_lines, num_tokens
from keyahead.service.gate import Gate
from keyahead.service.generation import Generation, Place, Waiter
from keyahead.service.metrics import Metrics
from keyahead.service.model import Answer, Deadline, Delta, FinishReason, Mode, Outcome, Query, Source, Superseded, Trigger
from keyahead.service.outcomes import EventLog
from keyahead.service.prompt import PROMPT_VERSION, PromptBuilder
from keyahead.service.read_ahead import ReadAhead
from keyahead.service.sessions import Sessions
from keyahead.service.speculation import Speculation
from keyahead.service.trim import TrimContext, language_of, opens_block

CACHE_BUDGET_S = 0.010
"""Longest wait for the cache, and at most a tenth of what is left of the deadline (reference: redis on a 200 ms path)."""
LINGER_S = 10.0
"""How long a generation may go on into the cache behind the deadline of the request that began it: long enough for a cold prompt's prefill
on a slow machine, and no waste, since a newer request that disagrees ends it at once."""
EARLY_S = 0.1
"""An automatic unary request that has waited so long takes a whole line, however short, or `ENOUGH_TOKENS` of one rather than wait for the
rest, which the next key finds: at 100 ms the next key has overtaken 4 % of suggestions, at 150 ms 22 % (data/typing.json). One that joins a
decode takes `ENOUGH_TOKENS` at once."""
MAX_NEWLINE_STOPS = 256
"""Newline tokens sent as stop words for a single line: the most frequent ones, since BPE ids grow with rarity."""


def _ms_since(moment: float) -> float:
    return (time.monotonic() - moment) * 1e3


@dataclass(frozen=True, slots=True)
class _Task:
    """What a query comes to once its mode is settled."""

    scope: Scope
    trimming: TrimContext
    max_tokens: int
    by_lines: bool
    """Whether the answer is cut at a line's end (see extent.py)."""
    patient: bool
    """Whether the whole is awaited."""


class Pipeline:
    """The completer behind the server. One for each process, on its event loop."""

    def __init__(
        self, config: ServiceConfig, model: Model, tokenizer: Tokenizer, engine: EngineClient, cache: PrefixCache, metrics: Metrics
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._engine = engine
        self._cache = cache
        self._metrics = metrics
        self._builder = PromptBuilder(model, tokenizer)
        read, rate = ReadPrompts(), PrefillRate()
        self._planner = Planner(self._builder, read, rate)
        self._gate = Gate(config.engine_places, read, rate, metrics)
        self._ahead = ReadAhead(self._gate, engine, read, rate)
        self._weights = dict(config.tenant_weights)
        self._sessions = Sessions()
        self._arbiter = Arbiter()
        self._running: dict[Generation, asyncio.Task[None]] = {}
        self._event_log = EventLog(config.event_log) if config.event_log else None
        self._fingerprint = f"{model.name}:{model.sha256}"
        ends = [tokenizer.control(name) for name in model.end_tokens]
        self._end_id = ends[0]
        self._block_stops = tuple((token,) for token in ends[1:])
        newlines = tokenizer.ids_containing(b"\n")[:MAX_NEWLINE_STOPS]
        self._line_stops = (*self._block_stops, *((token,) for token in newlines))

    @property
    def ready(self) -> bool:
        """Whether the engine is reachable and warm."""
        return self._engine.ready

    async def aclose(self) -> None:
        """Stop all decoding and close the engine's and the cache's connections."""
        await self._engine.aclose()
        await asyncio.gather(*self._running.values(), self._ahead.aclose(), return_exceptions=True)
        await self._cache.aclose()
        if self._event_log is not None:
            await asyncio.to_thread(self._event_log.close)

    async def complete(self, query: Query, deadline: Deadline) -> AsyncGenerator[Delta | Answer, None]:
        """Deltas, then one answer, by the deadline. Raises Superseded and EngineUnavailable."""
        started = time.monotonic()
        task = self._task(query)
        session = (query.tenant, query.session_id)
        waiter = Waiter(Place(task.scope, query.prefix, query.suffix), deadline)
        self._sessions.enter(session, waiter)
        try:
            waiter.timings.admit = _ms_since(started)
            answer = await self._from_cache(waiter, task)
            generation = None if answer else self._find(waiter.place)
            if answer:
                self._sessions.choose(session, waiter.place, None)
            source = Source.IN_FLIGHT
            while answer is None:
                if generation is None:
                    self._sessions.choose(session, waiter.place, None)  # The older one leaves its place before another is asked for.
                    generation, source = self._begin(query, task, waiter), Source.ENGINE
                self._sessions.choose(session, waiter.place, generation)
                async with aclosing(self._follow(generation, waiter, task, source)) as deltas:
                    async for delta in deltas:
                        yield delta
                answer = self._answer(generation, waiter, task, source)
                generation = None
            waiter.timings.total = _ms_since(started)
            yield answer
        finally:
            self._sessions.leave(session, waiter)

    def warm(self, query: Query) -> None:
        """Have the engine read a prompt before anybody asks; what it has read stays."""
        self._ahead.start((query.tenant, query.session_id), self._builder.build(query), self._weights.get(query.tenant, 1))

    def cool(self, query: Query) -> None:
        """Nobody will ask about this document: end `warm`."""
        self._ahead.stop((query.tenant, query.session_id))

    def outcome(self, outcome: Outcome) -> None:
        """A client has told what became of a suggestion."""
        self._metrics.settled(outcome)
        if self._event_log is not None:
            self._event_log.append(outcome)

    def _task(self, query: Query) -> _Task:
        language = language_of(query.path, query.language)
        block = query.mode is Mode.BLOCK or (query.mode is Mode.AUTO and _begins_block(query, language))
        max_tokens = query.max_tokens or (self._config.block_tokens if block else self._config.single_line_tokens)
        trimming = TrimContext(query.prefix, query.suffix, language, query.mode is not Mode.SINGLE_LINE, complete=True)
        by_lines = query.mode is Mode.AUTO and not block
        return _Task(self._scope(query, language), trimming, max_tokens, by_lines, query.patient)

    def _scope(self, query: Query, language: str) -> Scope:
        """By the mode asked for, not what AUTO comes to: whoever types into a block's suggestion goes on to be shown that block."""
        context = hashlib.blake2b(digest_size=8)
        for file in query.context:
            context.update(f"{len(file.path)}:{len(file.text)}:{file.path}{file.text}".encode())
        parameters = f"{query.mode.value}:{query.max_tokens}:{language}:{context.hexdigest()}"
        return Scope(query.tenant, self._fingerprint, PROMPT_VERSION, parameters)

    async def _from_cache(self, waiter: Waiter, task: _Task) -> Answer | None:
        begin = time.monotonic()
        budget = max(0.0, min(CACHE_BUDGET_S, waiter.deadline.remaining() / 10))
        hit = await self._cache.lookup(waiter.place.scope, waiter.place.prefix, waiter.place.suffix, budget)
        waiter.timings.cache = _ms_since(begin)
        if waiter.superseded:
            raise Superseded
        if hit is None:
            return None
        entry = hit.entry
        lines = first_lines(entry.text, entry.token_ends) if task.by_lines else None
        text, reason = (entry.text, FinishReason(entry.finish_reason)) if lines is None else (lines, FinishReason.STOP)
        return Answer(text, reason, Source(hit.tier), 0, num_tokens(text, entry.token_ends), waiter.timings)

    def _find(self, place: Place) -> Generation | None:
        return next((generation for generation in self._running if generation.agrees(place)), None)

    def _begin(self, query: Query, task: _Task, waiter: Waiter) -> Generation:
        begin = time.monotonic()
        self._gate.note_progress()
        plan = self._planner.plan(query, waiter.deadline.remaining())
        prompt, weight = plan.prompt, self._weights.get(query.tenant, 1)
        work_class = WorkClass.MANUAL if query.trigger is Trigger.MANUAL else WorkClass.AUTOMATIC
        request = EngineRequest(
            end_id=self._end_id,
            pad_id=self._end_id,
            stop_words=self._block_stops if task.trimming.multiline else self._line_stops,
            namespace=query.tenant,
            work_class=work_class,
            weight=weight,
        )
        decoding = Decoding(self._tokenizer, prompt.healed, task.trimming, task.max_tokens)
        speculation = Speculation(prompt, query.prefix, decoding, self._tokenizer, self._sources(query), self._arbiter, MAX_DRAFTS)
        generation = Generation(
            waiter.place,
            prompt,
            decoding,
            request,
            self._builder.first_token_bias(prompt.healed),
            speculation,
            Deadline(waiter.deadline.at + LINGER_S),
        )
        waiter.timings.prompt = _ms_since(begin)
        ticket = Ticket(query.tenant, work_class, waiter.deadline.at, plan.cold_s, generation, weight)
        self._gate.offer(ticket, prompt, plan.cold_tokens)
        way = self._gate.run(ticket, lambda: generation.run(self._engine), generation.deadline)
        running = self._running[generation] = asyncio.create_task(way, name="generation")
        running.add_done_callback(lambda _: self._end(generation))
        if plan.behind is not None:
            self._ahead.start((query.tenant, query.session_id), plan.behind, weight)
        else:
            self._ahead.stop((query.tenant, query.session_id))  # The generation reads it itself.
        return generation

    def _sources(self, query: Query) -> list[DraftSource]:
        session = (query.tenant, query.session_id)
        deleted = self._sessions.deleted(session)
        return [
            Suggestions("session", self._sessions.suggested(session)),
            Document.of(query.suffix, (file.text for file in query.context), deleted),
        ]

    def _end(self, generation: Generation) -> None:
        """A generation has ended: what it found goes into the cache, whoever still waits."""
        del self._running[generation]
        self._sessions.forget(generation)
        decoding, place = generation.decoding, generation.place
        text = decoding.suggestion()
        whole = not generation.prompt.shortened  # What a shortened prompt gave is for now; the next key shall find better.
        if whole and generation.error is None and decoding.finish is not None and text:
            tokens = num_tokens(text, decoding.token_ends)
            ends = (*decoding.token_ends[: tokens - 1], len(text))
            self._cache.store(place.scope, place.prefix, place.suffix, Entry(text, decoding.finish.value, tokens, ends))

    async def _follow(self, generation: Generation, waiter: Waiter, task: _Task, source: Source) -> AsyncGenerator[Delta, None]:
        """Wait until a generation has the answer, disagrees with what was typed, or the deadline comes; what can be shown meanwhile."""
        begin = time.monotonic()
        shown = ""
        joined = source is Source.IN_FLIGHT
        keep = False
        generation.waiters.add(waiter)
        try:
            while not generation.done and waiter.deadline.remaining() > 0 and generation.agrees(waiter.place):
                early = not task.patient and time.monotonic() - begin >= EARLY_S
                piece = _piece(generation, waiter, task, early=early)
                if piece.settled or (piece.num_tokens >= ENOUGH_TOKENS and (early or (joined and not task.patient))):
                    break
                if len(piece.ghost) > len(shown) and piece.ghost.startswith(shown):
                    yield Delta(piece.ghost[len(shown) :])
                    shown = piece.ghost
                await waiter.wait(None if early or task.patient else begin + EARLY_S)
            keep = generation.agrees(waiter.place)
        except Superseded:
            keep = True  # The newer request decides.
            raise
        except (asyncio.CancelledError, GeneratorExit):
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

    def _answer(self, generation: Generation, waiter: Waiter, task: _Task, source: Source) -> Answer | None:
        """The best so far; None if it is not what has been typed, or if another's generation failed."""
        if generation.error is not None and source is Source.ENGINE:
            raise generation.error
        if not generation.agrees(waiter.place):
            return None
        begin = time.monotonic()
        piece = _piece(
            generation, waiter, task, early=not task.patient and waiter.timings.first_token + waiter.timings.decode >= EARLY_S * 1e3
        )
        unfinished = FinishReason.PARTIAL if waiter.deadline.remaining() > 0 else FinishReason.DEADLINE
        reason = FinishReason.STOP if piece.settled else (generation.decoding.finish if generation.done else None) or unfinished
        waiter.timings.trim = _ms_since(begin)
        return Answer(piece.text, reason, source, len(generation.prompt.tokens), piece.num_tokens, waiter.timings)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What a generation has for a request so far."""

    text: str
    num_tokens: int
    settled: bool
    """It ends where AUTO wants it to end; further tokens do not change it."""
    ghost: str
    """What may be shown while decoding goes on; it may run ahead of `text` by an unfinished word."""


def _piece(generation: Generation, waiter: Waiter, task: _Task, *, early: bool) -> _Piece:
    decoding = generation.decoding
    typed = len(waiter.place.prefix) - len(generation.place.prefix)
    ends = decoding.ends_after(typed)
    text, ghost = decoding.suggestion()[typed:], decoding.shown()[typed:]
    lines = first_lines(text, ends, 1 if early else ENOUGH_TOKENS) if task.by_lines else None
    if lines is not None:
        return _Piece(lines, num_tokens(lines, ends), settled=True, ghost=lines)
    return _Piece(text, num_tokens(text, ends), settled=False, ghost=ghost)


def _begins_block(query: Query, language: str) -> bool:
    """AUTO completes more than the line where a block has just been opened, and on an empty line, where a statement begins."""
    line = query.prefix[query.prefix.rfind("\n") + 1 :]
    return opens_block(query.prefix, query.suffix, language) or (not line.strip() and not query.suffix.partition("\n")[0].strip())


def build(config: ServiceConfig, metrics: Metrics) -> Pipeline:
    """The real pipeline, connecting; to be called on the running event loop."""
    if config.model_folder is None:
        raise ValueError("model_folder (KEYAHEAD_MODEL_FOLDER) is required")
    model = catalogue.get(config.model_name)
    key = hashlib.blake2b(config.cache_key, digest_size=32, person=b"keyahead-cache").digest()
    redis = RedisSettings(config.redis_url, key) if config.redis_url else None
    cache = open_cache(CacheSettings(redis=redis), CacheMetrics(metrics))
    engine = EngineClient(config.triton_address)
    engine.start()
    return Pipeline(config, model, Tokenizer.load(config.model_folder), engine, cache, metrics)
