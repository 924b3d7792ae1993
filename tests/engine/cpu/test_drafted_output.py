"""Drafted decoding on the real engine gives what plain decoding gives; `benchmarks/equality.py` shows it on thousands of requests."""

from __future__ import annotations

import random

from keyahead.engine import catalogue
from keyahead.service.decoding import Decoding
from keyahead.service.drafting.arbiter import Arbiter
from keyahead.service.drafting.ngrams import Answers
from keyahead.service.drafting.proposals import Proposals
from keyahead.service.drafting.sources import Document
from keyahead.service.model import Query
from keyahead.service.prompt import PromptBuilder
from keyahead.service.speculation import Speculation
from keyahead.service.trim import TrimContext
from tests.engine.cpu.conftest import TEXT, Engine

REQUESTS = 10
MAX_TOKENS = 8


def decode(engine: Engine, builder: PromptBuilder, query: Query, *, most: int, arbiter: Arbiter, answers: Answers) -> tuple[list[int], int]:
    """The tokens of an answer with up to `most` drafts a step, and how many drafts were right."""
    prompt = builder.build(query)
    decoding = Decoding(engine.tokenizer, prompt.healed, TrimContext(query.prefix, "", "python", multiline=True, complete=True), MAX_TOKENS)
    proposals = Proposals(prompt, query.prefix, engine.tokenizer, [Document.of("", [TEXT[:20_000]], "")], answers["tenant"])
    speculation = Speculation(prompt, decoding, engine.tokenizer, proposals, arbiter, most)
    accepted = 0
    while decoding.finish is None:
        call = speculation.next_call()
        client = engine.ask(
            list(speculation.input_ids),
            max_new_tokens=call.max_new_tokens,
            draft_ids=call.draft.tokens if call.draft else (),
            embedding_bias=builder.first_token_bias(prompt.healed) if call.biased else None,
            namespace=f"{most}",
        )
        assert client.perf is not None
        accepted += client.perf.accepted_drafts
        speculation.received(call, client.tokens)
        speculation.ended(call, client.tokens, client.perf, 30.0, first=False)
    return decoding.tokens, accepted


def test_drafted_output_is_plain_output(engine: Engine) -> None:
    """Token for token, at random places of real code, where drafts are right and wrong."""
    builder = PromptBuilder(catalogue.get("smollm2-135m"), engine.tokenizer)
    chance, arbiter, answers = random.Random(3), Arbiter(), Answers()
    right = 0
    for _ in range(REQUESTS):
        at = chance.randrange(200, 20_000)
        query = Query(TEXT[at - 100 : at], "")
        plain, _ = decode(engine, builder, query, most=0, arbiter=Arbiter(), answers=Answers())
        drafted, accepted = decode(engine, builder, query, most=24, arbiter=arbiter, answers=answers)
        assert drafted == plain
        right += accepted
    assert right >= REQUESTS
