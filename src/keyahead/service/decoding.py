"""The text of one decode as its tokens arrive, and when it is finished: synchronous, no I/O."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import replace

from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.model import FinishReason
from keyahead.service.trim import TrimContext, find_stop, is_finished, trim


class Decoding:
    """Tokens in, suggestion out.

    The first token may begin with text that the user has typed already (healing); it is left out of the text.
    """

    def __init__(self, tokenizer: Tokenizer, healed: bytes, context: TrimContext, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._to_skip = len(healed)
        self._context = context
        self._cut = replace(context, complete=False)
        self._max_tokens = max_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.tokens: list[int] = []
        self.text = ""
        self.token_ends: list[int] = []
        """Offset in `text` at which each token ends."""
        self.finish: FinishReason | None = None

    @property
    def num_left(self) -> int:
        """Tokens that may still be decoded."""
        return self._max_tokens - len(self.tokens)

    def feed(self, tokens: Sequence[int]) -> None:
        """Take new tokens; those behind the end are ignored."""
        for token in tokens:
            if self.finish is not None:
                return
            if token in self._tokenizer.control_ids:
                self.finish = FinishReason.STOP
                return
            self._append(token)
            if is_finished(self.text, self._context):
                self.finish = FinishReason.STOP
            elif self.num_left <= 0:
                self.finish = FinishReason.LENGTH

    def end(self) -> None:
        """The engine has ended by itself: at its end token, a stop word, or the length."""
        if self.finish is None:
            self.finish = FinishReason.LENGTH if self.num_left <= 0 else FinishReason.STOP

    def suggestion(self) -> str:
        """What a person would accept of the text so far; always a beginning of `text`."""
        return trim(self.text, self._context if self.finish is FinishReason.STOP else self._cut)

    def shown(self) -> str:
        """Ghost text while decoding goes on: nothing that a later stop rule is sure to take back."""
        return trim(self.text, self._context)

    def until_stop(self, guess: str) -> str:
        """The part of a guess at what comes next that is worth verifying: up to the end of the line where the answer would end."""
        stop = find_stop(self.text + guess, self._context)
        if stop is None:
            return guess
        end = guess.find("\n", max(0, stop - 1 - len(self.text)))
        return guess if end < 0 else guess[: end + 1]

    def ends_after(self, typed: int) -> list[int]:
        """Where tokens end in what is left of `text` behind its first `typed` characters."""
        return [end - typed for end in self.token_ends if end > typed]

    def _append(self, token: int) -> None:
        piece = self._tokenizer.token_bytes(token)
        skipped = min(self._to_skip, len(piece))
        self._to_skip -= skipped
        self.text += self._utf8.decode(piece[skipped:])
        self.tokens.append(token)
        self.token_ends.append(len(self.text))
