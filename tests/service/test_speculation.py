"""The chain of engine calls of one decode, against a model that knows its text by heart."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.engine.contract import Perf
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.decoding import Decoding
from keyahead.service.drafting.arbiter import Arbiter, Candidate
from keyahead.service.drafting.ngrams import Answers, Ngrams
from keyahead.service.drafting.proposals import Proposals
from keyahead.service.drafting.sources import Guess
from keyahead.service.model import FinishReason
from keyahead.service.prompt import Prompt
from keyahead.service.speculation import Call, Speculation
from keyahead.service.trim import TrimContext

ANSWER = "return centre + sum(values) / len(values)"
WRITTEN = "def f(values):\n    re"
MOST = 8


@dataclass
class Oracle:
    """A source that says what it was told to, whatever is written."""

    texts: list[str]
    name: str = "oracle"

    def guess(self, written: str) -> Guess | None:
        return Guess(self.texts.pop(0), whole=True, matched=20) if self.texts else None


def trusting() -> Arbiter:
    """Has seen the oracle be right, and the first token fit."""
    arbiter = Arbiter()
    for _ in range(20):
        arbiter.healed(fits=True)
        for at in range(3):
            arbiter.learn([Candidate(1, Oracle.name, ((20).bit_length(), at, 0))], 1)
    return arbiter


@dataclass
class Model:
    """Greedy: it goes on with `ANSWER` and ends there, as the engine's contract has it."""

    tokenizer: Tokenizer
    unbiased_first: str = ""
    """What it would say first without the bias, if that is something else."""
    calls: list[Call] = field(default_factory=list)

    def answer(self, call: Call, done: int) -> list[int]:
        self.calls.append(call)
        tokens = self.tokenizer.encode(ANSWER)[done:]
        if not done and self.unbiased_first and not call.biased:
            tokens = self.tokenizer.encode(self.unbiased_first)
        if call.draft is None:
            return tokens[: call.max_new_tokens]
        right = next((i for i, (a, b) in enumerate(zip(call.draft.tokens, tokens, strict=False)) if a != b), len(call.draft.tokens))
        return tokens[: right + 1]


def decode(
    tokenizer: Tokenizer,
    guesses: list[str],
    unbiased_first: str = "",
    earlier: Ngrams | None = None,
    most: int = MOST,
    max_tokens: int = 32,
) -> tuple[Decoding, Model, Speculation]:
    """Run a decode to its end, as a generation does."""
    decoding = Decoding(tokenizer, b"re", TrimContext(WRITTEN, "\n", "python", multiline=False, complete=True), max_tokens)
    prompt = Prompt((1, 2, 3), b"re", tokenizer.encode("re")[0])
    proposals = Proposals(prompt, WRITTEN, tokenizer, [Oracle(guesses)], earlier or Answers()["a"])
    speculation = Speculation(prompt, decoding, tokenizer, proposals, trusting(), most)
    played = Model(tokenizer, unbiased_first)
    for turn in range(100):
        if decoding.finish is not None:
            break
        call = speculation.next_call()
        assert call.max_new_tokens <= decoding.num_left
        assert speculation.input_ids == (1, 2, 3, *decoding.tokens)
        tokens = played.answer(call, len(decoding.tokens))
        for piece in [[token] for token in tokens] if call.streaming else [tokens]:
            speculation.received(call, piece, None if call.streaming else [-0.5] * len(piece))
        speculation.ended(call, tokens, Perf(last_token_ns=30_000_000), 32.0, first=not turn)
    return decoding, played, speculation


pieces = st.lists(st.sampled_from(["turn centre", " + sum(values)", "nonsense", "return", " / len(values)", "\n", "é", ""]), max_size=6)


@settings(deadline=None, max_examples=200)
@given(guesses=pieces, first=st.sampled_from(["", "values", " return"]))
def test_whatever_is_drafted_the_answer_is_the_model_s(tokenizer: Tokenizer, guesses: list[str], first: str) -> None:
    """Right, wrong, empty and half-right drafts, with and without a first token that fits: the text is that of plain decoding."""
    decoding, played, speculation = decode(tokenizer, guesses, unbiased_first=first)
    assert decoding.text == ANSWER[2:]
    assert decoding.finish is FinishReason.STOP
    assert all(call.draft is None or 0 < len(call.draft.tokens) <= MOST for call in played.calls)
    assert speculation.steps <= len(decoding.tokens) + len(played.calls)


def test_a_right_draft_is_one_call(tokenizer: Tokenizer) -> None:
    """Healing included: the draft begins with the text taken back, and no bias is needed."""
    decoding, played, speculation = decode(tokenizer, [ANSWER[2:26]])
    assert decoding.text == ANSWER[2:]
    assert played.calls[0].draft is not None
    assert not any(call.biased for call in played.calls)
    assert speculation.steps < len(decoding.tokens)
    assert len(speculation.log_probs) >= len(played.calls[0].draft.tokens)


def test_an_answer_given_before_takes_fewer_steps(tokenizer: Tokenizer) -> None:
    """What was decoded for the tenant is a source by itself, up to where the answer ended then."""
    earlier = Answers()["a"]
    steps = [decode(tokenizer, [], earlier=earlier)[2].steps for _ in range(4)]
    assert steps[-1] < steps[0] / 2


def test_a_first_token_that_does_not_fit_is_healed_by_bias(tokenizer: Tokenizer) -> None:
    """What the model said without it is dropped."""
    _, played, _ = decode(tokenizer, [ANSWER[2:26]], unbiased_first="values")
    assert [call.biased for call in played.calls[:2]] == [False, True]


@pytest.mark.parametrize("limit", [{"most": 3}, {"max_tokens": 4}], ids=["the engine takes", "the answer needs"])
def test_a_draft_is_no_longer_than(tokenizer: Tokenizer, limit: dict[str, int]) -> None:
    """However sure it is. An engine refuses more drafts than it was built for; beside them, a step gives a token of its own."""
    _, played, _ = decode(tokenizer, [ANSWER[2:26]], **limit)  # type: ignore[arg-type]
    assert max(len(call.draft.tokens) for call in played.calls if call.draft) == 3
    assert max(call.max_new_tokens for call in played.calls) == 4


def test_a_draft_ends_where_the_answer_would(tokenizer: Tokenizer) -> None:
    """On a single line, nothing behind its end is verified."""
    _, played, _ = decode(tokenizer, ["turn centre\nand more of it"])
    assert played.calls[0].draft is not None
    assert tokenizer.decode(played.calls[0].draft.tokens) == "return centre\n"


def test_an_engine_that_takes_no_drafts_gets_none(tokenizer: Tokenizer) -> None:
    """Whatever the sources guess: one call heals, and one decodes the rest, since there is nothing to look for in between."""
    decoding, played, _ = decode(tokenizer, [ANSWER[2:26]] * 9, most=0)
    assert decoding.text == ANSWER[2:]
    assert [(call.draft, call.biased) for call in played.calls] == [(None, True), (None, False)]
    assert [call.max_new_tokens for call in played.calls] == [1, 31]
