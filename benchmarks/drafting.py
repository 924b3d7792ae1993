"""What drafting saves: the same typed text answered with drafts and without, on the real engine in this process.

Simulated people type real files (the plans of the load test). Wherever an earlier answer does not show what comes next, the answer is
decoded twice: by plain greedy decoding, and with drafts as the service makes them. Shown are steps and engine time for each, what each
source contributed, how often the texts differ, and the worst tenth of the replay.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import SEED, Engine, Figure, arguments, report_figures, running_engine

from keyahead.engine.contract import MAX_DRAFTS
from keyahead.loadtest import texts
from keyahead.loadtest.plan import make_plan
from keyahead.service.decoding import Decoding
from keyahead.service.drafting.arbiter import Arbiter, Candidate, Draft
from keyahead.service.drafting.match import LONGEST
from keyahead.service.drafting.ngrams import Answers, Ngrams
from keyahead.service.drafting.proposals import Proposals
from keyahead.service.drafting.sources import Document, Source, Suggested, Suggestions
from keyahead.service.model import Query
from keyahead.service.speculation import Call, Speculation
from keyahead.service.trim import TrimContext, language_of

TYPISTS = 8
DURATION_S = 1800.0
MAX_TOKENS = 32
"""The service's default for lines."""
LONG_ANSWER = 8
TENTHS = 10


class Never(Arbiter):
    """Plain decoding: the healed token, then everything in one call."""

    def choose(self, candidates: Callable[[Sequence[int]], Iterable[Candidate]], most: int, *, healing: bool) -> Draft | None:  # noqa: ARG002
        """Nothing is ever drafted."""
        return None

    def piece(self) -> int:
        """All that is left."""
        return MAX_TOKENS


@dataclass(slots=True)
class Cost:
    """What one answer took."""

    tokens: tuple[int, ...]
    text: str
    steps: int
    engine_ms: float
    ends: tuple[int, ...] = ()
    """Where tokens end in the text."""
    log_probs: tuple[float, ...] = ()
    """Of the tokens for which the service would know it."""
    proposed: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)


def answer(
    engine: Engine,
    query: Query,
    sources: Sequence[Source],
    answers: Ngrams,
    arbiter: Arbiter,
    namespace: str,
    max_tokens: int = MAX_TOKENS,
) -> Cost:
    """Decode an answer, call by call, as `service/generation.py` does."""
    prompt = engine.builder.build(query)
    trimming = TrimContext(query.prefix, query.suffix, language_of(query.path, ""), multiline=True, complete=True)
    decoding = Decoding(engine.tokenizer, prompt.healed, trimming, max_tokens)
    proposals = Proposals(prompt, query.prefix, engine.tokenizer, sources, answers)
    speculation = Speculation(prompt, decoding, engine.tokenizer, proposals, arbiter, MAX_DRAFTS)
    cost = Cost((), "", 0, 0.0)
    first = True
    while decoding.finish is None:
        call = speculation.next_call()
        _make(engine, call, speculation, cost, namespace, first=first)
        first = False
    cost.tokens, cost.text, cost.steps = tuple(decoding.tokens), decoding.suggestion(), speculation.steps
    cost.ends, cost.log_probs = tuple(decoding.token_ends), tuple(speculation.log_probs)
    return cost


def _make(engine: Engine, call: Call, speculation: Speculation, cost: Cost, namespace: str, *, first: bool) -> None:
    prompt = speculation.prompt
    begin = time.perf_counter()
    client = engine.ask(
        speculation.input_ids,
        max_new_tokens=call.max_new_tokens,
        draft_ids=call.draft.tokens if call.draft else (),
        embedding_bias=engine.builder.first_token_bias(prompt.healed) if call.biased else None,
        end_id=engine.ends[0],
        stop_words=tuple((end,) for end in engine.ends[1:]),
        namespace=namespace,
        return_log_probs=not call.streaming,
    )
    perf = client.result()
    cost.engine_ms += (perf.last_token_ns - perf.first_scheduled_ns) / 1e6 if client.tokens else 0.0
    speculation.received(call, client.tokens, client.log_probs)
    speculation.ended(call, client.tokens, perf, (time.perf_counter() - begin) * 1e3, first=first)
    if call.draft:
        cost.proposed.update(each.source for each in call.draft.candidates)
        cost.accepted.update(each.source for each in call.draft.candidates[: perf.accepted_drafts])


class Typing:
    """One person's keys, less those that an earlier answer shows already."""

    def __init__(self, sources: Sequence[texts.Source], typist: int) -> None:
        self._plan = make_plan(sources, SEED, typist, TYPISTS, DURATION_S)
        self.offered: deque[Suggested] = deque(maxlen=5)
        self._shown: deque[str] = deque(maxlen=50)

    def misses(self) -> Iterator[tuple[Query, str]]:
        """The requests that the cache cannot answer, each with what is then typed."""
        for key in self._plan.keys:
            if not key.asks:
                continue
            passage = self._plan.passages[key.passage]
            prefix = passage.before + passage.typed[: key.position] + key.mistake
            if not any(whole.startswith(prefix) and len(whole) > len(prefix) for whole in self._shown):
                yield Query(prefix, passage.after, path=passage.path), "" if key.mistake else passage.typed[key.position :]

    def answered(self, query: Query, text: str) -> None:
        """What was shown."""
        self._shown.append(query.prefix + text)
        self.offered.appendleft(Suggested(query.prefix[-LONGEST:], text))


def measure(engine: Engine, limit: int) -> list[tuple[Cost, Cost]]:
    """Plain and drafted, for so many requests, the typists taking turns."""
    sources = texts.from_folder()
    people = [Typing(sources, typist) for typist in range(TYPISTS)]
    queues = [person.misses() for person in people]
    never, arbiter = Never(), Arbiter()
    learned = Answers()
    costs: list[tuple[Cost, Cost]] = []
    turns = random.Random(SEED)  # noqa: S311 - order, not secrets
    while len(costs) < limit:
        for typist, (person, queue) in enumerate(zip(people, queues, strict=True)):
            query, _ = next(queue)
            drafts: list[Source] = [Suggestions("session", tuple(person.offered)), Document.of(query.suffix, (), "")]
            if turns.random() < 1 / 2:
                plain = answer(engine, query, (), learned["plain"], never, "plain")
                drafted = answer(engine, query, drafts, learned[str(typist)], arbiter, "drafted")
            else:
                drafted = answer(engine, query, drafts, learned[str(typist)], arbiter, "drafted")
                plain = answer(engine, query, (), learned["plain"], never, "plain")
            person.answered(query, drafted.text)
            costs.append((plain, drafted))
    return costs


def figures(costs: list[tuple[Cost, Cost]]) -> list[Figure]:
    """Ratios over all answers, over the long ones, by tenth and by source."""
    plain, drafted = [pair[0] for pair in costs], [pair[1] for pair in costs]
    long = [cost for cost in drafted if len(cost.tokens) >= LONG_ANSWER]
    each_ms, each_steps = sum(cost.engine_ms for cost in plain) / len(costs), sum(cost.steps for cost in plain) / len(costs)
    baseline = f"plain: {each_ms:.0f} ms, {each_steps:.1f} steps an answer"
    saved = sum(cost.engine_ms for cost in plain) / sum(cost.engine_ms for cost in drafted)
    size = max(1, len(costs) // TENTHS)
    tenths = [costs[start : start + size] for start in range(0, size * TENTHS, size)]
    worst = min(sum(pair[0].engine_ms for pair in tenth) / sum(pair[1].engine_ms for pair in tenth) for tenth in tenths if tenth)
    differing = sum(pair[0].tokens != pair[1].tokens for pair in costs) / len(costs)
    result = [
        Figure("engine_time", f"engine time an answer, plain to drafted, {len(costs)} answers", saved, "times", baseline, at_least=1.6),
        Figure("worst_tenth", "the same, worst tenth of the replay", worst, "times", "", at_least=0.97),
        Figure(
            "tokens_per_step", f"tokens per step, {len(long)} answers of 8 tokens or more", _per_step(long), "tokens", "1", at_least=2.0
        ),
        Figure("differing", "share of answers with other tokens (ties)", differing, ""),
    ]
    proposed: defaultdict[str, int] = defaultdict(int)
    accepted: defaultdict[str, int] = defaultdict(int)
    for cost in drafted:
        for source, count in cost.proposed.items():
            proposed[source] += count
            accepted[source] += cost.accepted[source]
    for source, count in sorted(proposed.items()):
        meaning = f"drafted tokens accepted, source {source}"
        result.append(Figure(f"accepted_{source}", meaning, accepted[source] / count, "", f"{count} drafted"))
    return result


def _per_step(costs: list[Cost]) -> float:
    return sum(len(cost.tokens) for cost in costs) / max(1, sum(cost.steps for cost in costs))


def main() -> None:
    options = arguments(__doc__, limit=400)
    with running_engine() as engine:
        costs = measure(engine, options.limit)
    report_figures(Path(__file__).stem, figures(costs), as_json=options.json)


if __name__ == "__main__":
    main()
