"""The next engine call of a decode: verify a draft, heal the first token, or decode plainly. A state machine; the calls are another's.

The contract's rule shapes it: a call with drafts is one step of the engine and then ends, so a completion is a chain of calls, each
beginning where the last one ended. Output is what plain greedy decoding would give, whatever is drafted.

Healing (docs/adr/0007) takes the last token of the prompt back; the first token decoded must begin with its text. A call whose bias sees to
that is sure to get one token. A draft that begins with that text is tried without: if the model's own first token fits, so does all that
follows, and nothing was spent on healing; if not, the call was in vain, which the arbiter weighs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from keyahead.engine.contract import Perf
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.decoding import Decoding
from keyahead.service.drafting.arbiter import Arbiter, Draft
from keyahead.service.drafting.proposals import Proposals
from keyahead.service.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the engine, behind the prompt and the tokens decoded so far."""

    max_new_tokens: int
    draft: Draft | None = None
    biased: bool = False
    """Whether the healing bias applies."""

    @property
    def streaming(self) -> bool:
        """Plain decoding is watched token by token; the other kinds are one step."""
        return self.draft is None and not self.biased


class Speculation:
    """One decode, from its prompt to its end."""

    def __init__(self, prompt: Prompt, decoding: Decoding, tokenizer: Tokenizer, proposals: Proposals, arbiter: Arbiter, most: int) -> None:
        """`most` is how many drafts the engine verifies in one step, 0 if it takes none."""
        self.prompt = prompt
        self._decoding = decoding
        self._tokenizer = tokenizer
        self._proposals = proposals
        self._arbiter = arbiter
        self._most = most
        self._to_heal = prompt.healed
        self._must_bias = False
        self.log_probs: list[float] = []
        """Of the tokens that a call other than plain decoding gave."""
        self.steps = 0
        """Of the engine, so far."""

    @property
    def input_ids(self) -> tuple[int, ...]:
        """What the next call continues."""
        return (*self.prompt.tokens, *self._decoding.tokens)

    def next_call(self) -> Call:
        """The call to make now; there is one as long as the decoding is not finished."""
        left = self._decoding.num_left
        draft = None
        if self._most and not self._must_bias:
            self._proposals.look_up(self._decoding.text, self._to_heal)
            most = min(self._most, left - 1)
            draft = self._until_stop(self._arbiter.choose(self._proposals.candidates, most, healing=bool(self._to_heal)))
        if draft:
            return Call(len(draft.tokens) + 1, draft)
        if self._to_heal:
            return Call(1, biased=True)
        return Call(min(left, self._arbiter.piece()) if self._most else left)  # Without drafts there is nothing to look for again.

    def received(self, call: Call, tokens: Sequence[int], log_probs: Sequence[float] | None = None) -> None:
        """New tokens of a call: all of a one-step call's, or the next of a streaming one's."""
        if call.streaming:
            self.steps += len(tokens)
            self._take(tokens)
            return
        self.steps += 1
        if call.draft and not self._fits(tokens):
            self._must_bias = True
            return
        self._to_heal, self._must_bias = b"", False
        self.log_probs += log_probs or ()
        self._take(tokens)

    def ended(self, call: Call, tokens: Sequence[int], perf: Perf | None, elapsed_ms: float, *, first: bool) -> None:
        """A call has ended by itself with `tokens` in all; the `first` has a prompt to prefill, which hides what its step costs."""
        if call.draft:
            accepted = _accepted(call.draft.tokens, tokens)
            if not self._must_bias:
                self._arbiter.verified(call.draft, accepted)
            ended_early = accepted == len(tokens)
        else:
            ended_early = len(tokens) < call.max_new_tokens
        if perf and not first and tokens:
            step_ms = (perf.last_token_ns - perf.first_scheduled_ns) / 1e6 / (len(tokens) if call.streaming else 1)
            in_engine_ms = (perf.last_token_ns - perf.arrival_ns) / 1e6
            drafted = len(call.draft.tokens) if call.draft else 0
            self._arbiter.cost.observe(drafted, step_ms, max(0.0, elapsed_ms - in_engine_ms))
        # The engine leaves the end token out, so a call that ends too early has met it, or a stop word.
        if ended_early and not self._must_bias:
            self._decoding.end()

    def _take(self, tokens: Sequence[int]) -> None:
        """Tokens of the answer; whatever had been proposed where they come is judged by them."""
        for token in tokens:
            self._arbiter.learn(self._proposals.candidates(), token)
            self._proposals.came(token)
        self._decoding.feed(tokens)

    def _fits(self, tokens: Sequence[int]) -> bool:
        """Whether the model's own first token begins with the text to be healed."""
        if not self._to_heal:
            return True
        fits = bool(tokens) and self._tokenizer.token_bytes(tokens[0]).startswith(self._to_heal)
        self._arbiter.healed(fits=fits)
        return fits

    def _until_stop(self, draft: Draft | None) -> Draft | None:
        """A draft less its tokens behind the place where the answer would end anyway."""
        if draft is None:
            return None
        pieces = [self._tokenizer.token_bytes(token) for token in draft.tokens]
        text = b"".join(pieces)[len(self._to_heal) :].decode(errors="replace")
        wanted = len(self._to_heal) + len(self._decoding.until_stop(text).encode())
        starts = itertools.accumulate(map(len, pieces[:-1]), initial=0)
        kept = sum(start < wanted for start in starts)
        return Draft(draft.candidates[:kept]) if kept else None


def _accepted(drafts: Sequence[int], tokens: Sequence[int]) -> int:
    """How many drafts the engine's tokens begin with."""
    return next(
        (at for at, (draft, token) in enumerate(zip(drafts, tokens, strict=False)) if draft != token), min(len(drafts), len(tokens))
    )
