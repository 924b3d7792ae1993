"""What may come next in one decode, by all its sources together: texts that are searched, and n-grams that are counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.drafting.arbiter import Candidate
from keyahead.service.drafting.ngrams import LONGEST_CONTEXT, Ngrams
from keyahead.service.drafting.sources import Source
from keyahead.service.prompt import Prompt

HEALING = "healing"
"""The source whose candidate is the token taken back itself."""
_MAX_PROMPT_CONTEXTS = 1 << 14
"""Above what the longest prompt has."""
_FATES = {None: 0, False: 1, True: 2}
"""What became of a suggestion, as evidence for its use as a draft."""
_FAR = 2
"""Tokens of a text's guess that have proved right, beyond which more of them say nothing new about the next."""


@dataclass(frozen=True, slots=True)
class _Continuation:
    """A guess, as tokens."""

    source: str
    tokens: tuple[int, ...]
    matched: int
    taken: bool | None

    def candidate(self, after: Sequence[int]) -> Candidate | None:
        """Its token behind those that it began with; None if it began with others."""
        at = len(after)
        if at >= len(self.tokens) or self.tokens[:at] != tuple(after):
            return None
        return Candidate(self.tokens[at], self.source, (self.matched.bit_length(), min(at, _FAR), _FATES[self.taken]))


class Proposals:
    """Candidates for every place of one decode. It moves on as tokens come, and has the n-grams of the tenant's answers learn from them."""

    def __init__(self, prompt: Prompt, written: str, tokenizer: Tokenizer, sources: Sequence[Source], answers: Ngrams) -> None:
        """`written` is the document before the cursor; `answers` are of what has been decoded for the tenant."""
        self._prompt = prompt
        self._written = written
        self._tokenizer = tokenizer
        self._sources = sources
        self._answers = answers
        self._prompted = Ngrams("prompt", _MAX_PROMPT_CONTEXTS)
        self._prompted.learn(prompt.tokens)
        self._recent = prompt.tokens[-LONGEST_CONTEXT:]
        """The last tokens, the answer's included."""
        self._to_heal = b""
        self._found: list[_Continuation] = []
        self._since: tuple[int, ...] = ()
        """Tokens that have come since the texts were searched."""

    def look_up(self, decoded: str, to_heal: bytes) -> None:
        """Search the texts for what is written by now; the next token must begin with `to_heal`."""
        self._to_heal, self._since = to_heal, ()
        guesses = ((source.name, source.guess(self._written + decoded)) for source in self._sources)
        self._found = [
            _Continuation(name, self._tokens(guess.text, whole=guess.whole), guess.matched, guess.taken) for name, guess in guesses if guess
        ]

    def candidates(self, drafted: Sequence[int] = ()) -> Iterator[Candidate]:
        """What may come behind the tokens so far and these."""
        after = (*self._since, *drafted)
        if after or not self._to_heal:
            yield from self._all(after, drafted)
            return
        for each in self._all(after, drafted):
            if self._tokenizer.token_bytes(each.token).startswith(self._to_heal):
                yield each
        yield Candidate(self._prompt.healed_token, HEALING, (int(self._to_heal[-1:].isalnum()),))

    def came(self, token: int) -> None:
        """The model's own next token."""
        self._answers.learn((*self._recent, token), len(self._recent))
        self._recent = (*self._recent, token)[-LONGEST_CONTEXT:]
        self._since = (*self._since, token)

    def _all(self, after: Sequence[int], drafted: Sequence[int]) -> Iterator[Candidate]:
        for text in self._found:
            if candidate := text.candidate(after):
                yield candidate
        context = (*self._recent, *drafted)[-LONGEST_CONTEXT:]
        yield from self._answers.candidates(context)
        yield from self._prompted.candidates(context)

    def _tokens(self, text: str, *, whole: bool) -> tuple[int, ...]:
        try:
            taken_back = self._to_heal.decode()
        except UnicodeDecodeError:
            return ()  # Half a character cannot be continued by text.
        tokens = self._tokenizer.encode(taken_back + text)
        return tuple(tokens if whole else tokens[:-1])  # It was cut in the middle of something.
