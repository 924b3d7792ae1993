"""All decodes of a process: begun, found again, read ahead, prefetched, and put into the cache when they end."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from keyahead.cache import Entry, PrefixCache
from keyahead.engine.catalogue import Model
from keyahead.engine.contract import EngineRequest, WorkClass
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.adapters import TenantAdapters
from keyahead.service.admission import Ticket
from keyahead.service.cold import Plan
from keyahead.service.confidence import p_accept
from keyahead.service.config import ServiceConfig
from keyahead.service.decoding import Decoding
from keyahead.service.drafting.arbiter import Arbiter
from keyahead.service.drafting.ngrams import Answers
from keyahead.service.drafting.proposals import Proposals
from keyahead.service.drafting.sources import Document, Source, Suggested, Suggestions
from keyahead.service.engines import key_of
from keyahead.service.extent import num_tokens
from keyahead.service.fleet import Engine, Fleet
from keyahead.service.generation import Generation, Place
from keyahead.service.metrics import Metrics
from keyahead.service.model import Deadline, EngineUnavailable, FinishReason, Overloaded, Query
from keyahead.service.prompt import PromptBuilder
from keyahead.service.sessions import Sessions
from keyahead.service.speculation import Speculation
from keyahead.service.task import Task

LINGER_S = 10.0
"""How long a generation may go on into the cache behind the deadline of the request that began it: long enough for a cold prompt's prefill
on a slow machine, and no waste, since a newer request that disagrees ends it at once."""
PREFETCH_S = 0.2
"""What a prefetch plans with: an automatic request's time, so that it is given up where even that would have shortened the prompt."""
SHORTENED_TOKENS = 12
"""Decoded at most from a shortened prompt: twice what is shown, for the next key; then the engine is to read the whole one."""
MAX_NEWLINE_STOPS = 256
"""Newline tokens sent as stop words for a single line: the most frequent ones, since BPE ids grow with rarity."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Origin:
    """What a generation was begun for."""

    query: Query
    prefetched: bool


class Generations:
    """One for each process, on its event loop."""

    def __init__(
        self,
        config: ServiceConfig,
        model: Model,
        tokenizer: Tokenizer,
        fleet: Fleet,
        cache: PrefixCache,
        metrics: Metrics,
        adapters: TenantAdapters,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._fleet = fleet
        self._cache = cache
        self._builder = PromptBuilder(model, tokenizer)
        self._weights = dict(config.tenant_weights)
        self._arbiter = Arbiter(metrics.drafted)
        self._answers = Answers()
        self._running: dict[Generation, tuple[_Origin, asyncio.Task[None]]] = {}
        self._weights_id = f"{model.name}:{model.sha256}"
        self._adapters = adapters
        self.sessions = Sessions()
        ends = [tokenizer.control(name) for name in model.end_tokens]
        self._end_id = ends[0]
        self._block_stops = tuple((token,) for token in ends[1:])
        newlines = tokenizer.ids_containing(b"\n")[:MAX_NEWLINE_STOPS]
        self._line_stops = (*self._block_stops, *((token,) for token in newlines))

    def fingerprint(self, tenant: str) -> str:
        """What a tenant's answers are made with: the model's weights, and its adapter's."""
        return self._weights_id + self._adapters.fingerprint(tenant)

    async def aclose(self) -> None:
        """Wait for the last; the engines are closed before."""
        ahead = (engine.ahead.aclose() for engine in self._fleet.engines)
        await asyncio.gather(*(task for _, task in self._running.values()), *ahead, return_exceptions=True)

    def find(self, place: Place) -> Generation | None:
        """One that can answer a request at this place."""
        return next((generation for generation in self._running if generation.agrees(place)), None)

    def begin(self, query: Query, task: Task, place: Place, deadline: Deadline) -> Generation:
        """Start one for a request. Raises Overloaded and EngineUnavailable."""
        engine = self._fleet.choose(key_of(query))
        engine.gate.note_progress()
        for other, (origin, _) in self._running.items():
            if origin.prefetched and not other.wanted:
                other.stop()  # The CPU engine would let it wait; another may not.
        plan = engine.planner.plan(query, deadline.remaining())
        generation = self._start(engine, query, task, place, plan, deadline, query.work_class)
        session = (query.tenant, query.session_id)
        if plan.behind is not None:
            engine.ahead.start(session, plan.behind, self._weight(query))
        else:
            engine.ahead.stop(session)  # The generation reads it itself.
        return generation

    def warm(self, query: Query) -> None:
        """Have the engine read a prompt before anybody asks; what it has read stays."""
        if self._fleet.ready:
            ahead = self._fleet.choose(key_of(query)).ahead
            ahead.start((query.tenant, query.session_id), self._builder.build(query), self._weight(query))

    def cool(self, query: Query) -> None:
        """Nobody will ask about this document: end `warm`."""
        for engine in self._fleet.engines:
            engine.ahead.stop((query.tenant, query.session_id))

    def _weight(self, query: Query) -> int:
        return self._weights.get(query.tenant, 1)

    def _start(
        self, engine: Engine, query: Query, task: Task, place: Place, plan: Plan, deadline: Deadline, work_class: WorkClass
    ) -> Generation:
        prompt, weight = plan.prompt, self._weight(query)
        request = EngineRequest(
            end_id=self._end_id,
            pad_id=self._end_id,
            stop_words=self._block_stops if task.trimming.multiline else self._line_stops,
            namespace=query.tenant,
            work_class=work_class,
            weight=weight,
        )
        max_tokens = min(task.max_tokens, SHORTENED_TOKENS) if prompt.shortened else task.max_tokens
        decoding = Decoding(self._tokenizer, prompt.healed, task.trimming, max_tokens)
        proposals = Proposals(prompt, query.prefix, self._tokenizer, self._sources(query, place), self._answers[query.tenant])
        speculation = Speculation(prompt, decoding, self._tokenizer, proposals, self._arbiter, self._config.max_drafts)
        bias = self._builder.first_token_bias(prompt.healed)
        generation = Generation(place, prompt, decoding, request, bias, speculation, Deadline(deadline.at + LINGER_S))
        ticket = Ticket(query.tenant, work_class, deadline.at, plan.cold_s, generation, weight)
        engine.gate.offer(ticket, prompt, plan.cold_tokens)
        running = asyncio.create_task(self._run(generation, engine, ticket, key_of(query)), name="generation")
        self._running[generation] = _Origin(query, work_class is WorkClass.BACKGROUND), running
        running.add_done_callback(lambda _: self._end(generation))
        return generation

    async def _run(self, generation: Generation, engine: Engine, ticket: Ticket, key: str) -> None:
        """Decode at an engine; if that is lost while somebody waits, go on at another, once: what kills two may well kill all."""
        try:
            try:
                await engine.gate.run(ticket, lambda: generation.run(engine.client), generation.deadline)
            except EngineUnavailable:
                if generation.error is not None or not generation.wanted:
                    raise
                other = self._fleet.another(key, engine)
                cold = other.read.cold_tokens(ticket.tenant, generation.prompt.tokens)
                again = Ticket(ticket.tenant, ticket.work_class, ticket.due, other.rate.seconds(cold), generation, ticket.weight)
                other.gate.offer(again, generation.prompt, cold)
                await other.gate.run(again, lambda: generation.run(other.client), generation.deadline)
        except Exception as error:  # noqa: BLE001  # a defect is passed on, too
            generation.end(error)
        else:
            generation.end(None)

    def _sources(self, query: Query, place: Place) -> list[Source]:
        session = (query.tenant, query.session_id)
        neighbours = self._cache.neighbours(place.scope, place.prefix, place.suffix)
        return [
            Suggestions("session", self.sessions.suggested(session)),
            Suggestions("neighbour", tuple(Suggested(each.line, each.text) for each in neighbours)),
            Document.of(query.suffix, (file.text for file in query.context), query.deleted or self.sessions.deleted(session)),
        ]

    def _end(self, generation: Generation) -> None:
        """A generation has ended: what it found goes into the cache, whoever still waits."""
        origin, _ = self._running.pop(generation)
        self.sessions.forget(generation)
        decoding, place = generation.decoding, generation.place
        text = decoding.suggestion()
        whole = not generation.prompt.shortened  # What a shortened prompt gave is for now; the next key shall find better.
        if not whole or generation.error is not None or decoding.finish is None or not text:
            return
        tokens = num_tokens(text, decoding.token_ends)
        ends = (*decoding.token_ends[: tokens - 1], len(text))
        chance = p_accept(generation.speculation.log_probs, tokens, text.count("\n"))
        self._cache.store(place.scope, place.prefix, place.suffix, Entry(text, decoding.finish.value, tokens, ends, chance))
        if decoding.finish in {FinishReason.STOP, FinishReason.LENGTH} and not origin.prefetched:
            self._prefetch(origin.query, text)

    def _prefetch(self, query: Query, text: str) -> None:
        """While the engine is idle, decode what comes after a suggestion has been taken; a request that comes ends it."""
        if self._running or not self._fleet.ready:
            return
        started = time.monotonic()
        then = query._replace(prefix=query.prefix + text)
        task = Task(then, self._config, self.fingerprint(query.tenant))
        engine = self._fleet.choose(key_of(then))
        plan = engine.planner.plan(then, PREFETCH_S)
        if plan.behind is None:
            try:
                self._start(engine, then, task, Place(task.scope, then.prefix, then.suffix), plan, Deadline(started), WorkClass.BACKGROUND)
            except Overloaded:
                return
