"""Drafted output against plain greedy output, on thousands of requests: how many differ, and whether what differs is a tie.

The small model, computing in FP32, so that a step's shape changes next to nothing; prompts, proposals, arbiter and calls are those of the
service. At the first token that differs, a forward pass over the whole sequence gives the logits of both candidates: a gap of the size of
rounding is a tie, a larger one a defect. `drafting.py` counts what differs with the default model and its usual arithmetic.
"""

from __future__ import annotations

import copy
import itertools
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import SEED, Engine, Figure, arguments, bare_step, library, report_figures, running_engine
from drafting import Never, answer

from keyahead.service.drafting.arbiter import Arbiter
from keyahead.service.drafting.ngrams import Answers
from keyahead.service.drafting.sources import Document
from keyahead.service.model import Query
from keyahead.service.prompt import PromptBuilder

MODEL = "smollm2-135m"
PEOPLE = 8
"""Who ask at the same time, each with sources of their own; the engine computes their requests in common steps."""
BEFORE, BEHIND = 120, 60
"""Characters of a document."""
MAX_TOKENS = 12
TELL_EVERY = 100
"""Requests; on two cores with AVX-512, 2,000 take six minutes."""
TIE = 1e-3
"""Logits that are nearer than this are equal but for rounding: FP32 with 24 bits, sums of some hundred products."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt and its two continuations."""

    ids: tuple[int, ...]
    plain: tuple[int, ...]
    drafted: tuple[int, ...]
    drafts: int
    """Tokens that were drafted."""
    accepted: int


def requests(number: int, count: int) -> Iterator[tuple[Query, str]]:
    """Random places in the standard library, each with its file."""
    chance = random.Random(SEED + number)  # noqa: S311 - a sample, not a secret
    files = [path.read_text() for path in library()[number::PEOPLE]]
    files = [text for text in files if len(text) > BEFORE + BEHIND]
    for _ in range(count):
        text = chance.choice(files)
        at = chance.randrange(BEFORE, len(text) - BEHIND)
        yield Query(text[at - BEFORE : at], text[at : at + BEHIND], path="typed.py"), text


def ask(engine: Engine, number: int, count: int, answered: Iterator[int]) -> list[Pair]:
    """One person's requests, answered in both ways; their whole file is a context file, so that there is much to draft."""
    engine = copy.copy(engine)
    engine.builder = PromptBuilder(engine.model, engine.tokenizer)  # It keeps biases, for one thread.
    never, arbiter, learned = Never(), Arbiter(), Answers()
    pairs = []
    for query, file in requests(number, count):
        plain = answer(engine, query, (), learned["plain"], never, "plain", MAX_TOKENS)
        drafted = answer(engine, query, [Document.of(query.suffix, [file], "")], learned["drafted"], arbiter, "drafted", MAX_TOKENS)
        ids = engine.builder.build(query).tokens
        pairs.append(Pair(ids, plain.tokens, drafted.tokens, drafted.proposed.total(), drafted.accepted.total()))
        if (so_far := next(answered)) % TELL_EVERY == 0:
            print(f"{so_far} requests answered in both ways", file=sys.stderr, flush=True)
    return pairs


def gap(engine: Engine, pair: Pair) -> float:
    """Distance of the two candidates' logits at the first difference; infinite if one has ended there. Not for an engine at work."""
    at = next((i for i, (one, other) in enumerate(zip(pair.plain, pair.drafted, strict=False)) if one != other), None)
    if at is None:
        return float("inf")
    engine.runner.start(bare_step([*pair.ids, *pair.plain[:at]], 0))
    row = engine.runner.finish()[-1]
    return abs(float(row[pair.plain[at]]) - float(row[pair.drafted[at]]))


def figures(pairs: Sequence[Pair], gaps: Sequence[float]) -> list[Figure]:
    """Counts, and the largest gap."""
    count, drafts, accepted = len(pairs), sum(pair.drafts for pair in pairs), sum(pair.accepted for pair in pairs)
    defects = sum(each > TIE for each in gaps)
    result = [
        Figure("differing", f"answers with other tokens, of {count}", len(gaps) / count, "share", f"{len(gaps)}"),
        Figure("defects", f"of these, at logits more than {TIE:g} apart", defects, "", at_most=0),
        Figure("accepted", f"drafted tokens accepted, of {drafts}", accepted / drafts, "share", f"{accepted}"),
    ]
    if gaps:
        result.append(Figure("gap_most", "logit gap at a first difference, most", max(gaps), "logits"))
    return result


def main() -> None:
    options = arguments(__doc__, limit=2000)
    with running_engine(MODEL, exact=True) as engine, ThreadPoolExecutor(PEOPLE) as people:
        answered = itertools.count(1)
        found = people.map(lambda number: ask(engine, number, options.limit // PEOPLE, answered), range(PEOPLE))
        pairs = [pair for each in found for pair in each]
        gaps = [gap(engine, pair) for pair in pairs if pair.plain != pair.drafted]
    report_figures(Path(__file__).stem, figures(pairs, gaps), as_json=options.json)


if __name__ == "__main__":
    main()
