"""From a document to the model's prompt: layout, window, token budgets, token healing.

What is typed stands at the very end, so that a key leaves the KV of all before it valid, and the window's start moves rarely, in big
steps. The last token is taken back (the cursor usually stands inside one) and the first new token must begin with its text. docs/design.md
has the measurements behind both.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from keyahead.engine.catalogue import Layout, Model
from keyahead.engine.contract import Array
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.model import ContextFile, Query

PROMPT_VERSION = "2"
"""Part of every cache key: count it up when a prompt changes its meaning."""
CHARS_PER_TOKEN = 3
"""Lower estimate for code (3.6 in Copilot's 2022 telemetry, data/typing.json), so that a window by characters stays within its tokens."""
STEP_LINES = 32
"""The window's start moves by so many lines at once: typing 40 lines moves it twice at most."""
_NEWLINE = re.compile("\n")
_STEP_CHARS = 1024
"""The same within one very long line."""
_EXCLUDED = np.float32(-1e9)
_MAX_BIASES = 32


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens for the engine, and what the first new token must begin with."""

    tokens: tuple[int, ...]
    healed: bytes = b""
    """Text taken back from the prompt's end; the completion begins after it."""
    healed_token: int = 0
    """The token taken back."""
    shortened: bool = False
    """It holds only what is next to the cursor, for want of time to read the rest."""


def window_start(prefix: str, max_chars: int) -> int:
    """Where the prompt's part of a prefix begins: at a line whose number is a multiple of `STEP_LINES`, with at most `max_chars` behind it.

    It depends on nothing but the text, so every request for a document being typed at its end agrees on it. Where lines are so long that
    the window holds no such line, smaller steps are taken, and in the end a grid of characters.
    """
    earliest = len(prefix) - max_chars
    if earliest <= 0:
        return 0
    line = prefix.count("\n", 0, earliest) + 1
    starts = [match.end() for match in _NEWLINE.finditer(prefix, earliest, len(prefix) - 1)]
    for step in (STEP_LINES, STEP_LINES // 4, 1):
        if (skipped := -line % step) < len(starts):
            return starts[skipped]
    grid = max(1, min(_STEP_CHARS, max_chars // 2))
    return -(-earliest // grid) * grid


def head_of_suffix(suffix: str, max_chars: int) -> str:
    """The beginning of a suffix, cut at a line's end."""
    if len(suffix) <= max_chars:
        return suffix
    end = suffix.rfind("\n", 0, max_chars)
    return suffix[: end + 1 if end >= 0 else max_chars]


def take_back(tokenizer: Tokenizer, tokens: Sequence[int]) -> tuple[list[int], bytes, int]:
    """The tokens without the last one, that one's text, and itself.

    Of white space only the last character is taken back: the tokenizers of GPT-2's family leave it to the word that follows, so that
    `    return` is three spaces and ` return`. Were all of it kept, or taken back, the model would go on one level too deep.
    """
    *kept, last = tokens
    text = tokenizer.token_bytes(last)
    if len(text) > 1 and text.isspace() and not text.endswith((b"\n", b"\r")):
        kept += tokenizer.encode(text[:-1].decode())
        (last,), text = tokenizer.encode(text[-1:].decode()), text[-1:]
    return kept, text, last


class PromptBuilder:
    """Builds prompts for one model."""

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._biases: OrderedDict[bytes, Array] = OrderedDict()

    def build(self, query: Query) -> Prompt:
        """The prompt of a query; about 1 ms of tokenizing at the default budgets."""
        budgets = self._model.budgets
        start = window_start(query.prefix, budgets.prefix * CHARS_PER_TOKEN)
        prefix = self._tokenizer.encode(query.prefix[start:])
        frame = [*self._context(query.context, budgets.context), *self._suffix(query.suffix, budgets.suffix)]
        return self._healed(frame, prefix)

    def shortened(self, query: Query, max_tokens: int) -> Prompt:
        """At most so many tokens: a quarter for what follows the cursor, the rest for the nearest lines before it, no other files."""
        frame = self._suffix(query.suffix, max_tokens // 4)[-max_tokens // 4 :]
        room = max_tokens - len(frame)
        earliest = max(0, len(query.prefix) - room * CHARS_PER_TOKEN)
        start = query.prefix.find("\n", earliest) + 1 if earliest else 0
        prefix = self._tokenizer.encode(query.prefix[start or earliest :])[-room:]
        return replace(self._healed(frame, prefix), shortened=True)

    def first_token_bias(self, healed: bytes) -> Array | None:
        """FP32 [vocabulary] that leaves only tokens beginning with `healed`; None where nothing needs healing."""
        if not healed:
            return None
        if healed not in self._biases:
            allowed = self._tokenizer.ids_starting_with(healed)
            bias = np.full(self._model.vocab, _EXCLUDED, dtype=np.float32)
            bias[allowed] = 0
            self._biases[healed] = bias
            if len(self._biases) > _MAX_BIASES:
                self._biases.popitem(last=False)
        self._biases.move_to_end(healed)
        return self._biases[healed]

    def _healed(self, frame: list[int], prefix: list[int]) -> Prompt:
        """Frame and prefix, less what is taken back."""
        if not prefix:
            return Prompt(tuple(frame))
        kept, text, token = take_back(self._tokenizer, prefix)
        if not frame and not kept:
            return Prompt((token,))
        return Prompt((*frame, *kept), text, token)

    def _suffix(self, suffix: str, budget: int) -> list[int]:
        """The infilling frame up to where the prefix goes."""
        if self._model.layout is not Layout.SUFFIX_PREFIX_MIDDLE_HEALED or self._model.fim is None:
            return []
        control = self._tokenizer.control
        fim = self._model.fim
        text = self._tokenizer.encode(head_of_suffix(suffix, budget * CHARS_PER_TOKEN))
        return [control(fim.prefix), control(fim.suffix), *text, control(fim.middle)]

    def _context(self, files: tuple[ContextFile, ...], budget: int) -> list[int]:
        """Other files in the repository layout of Qwen2.5-Coder; the first that does not fit is cut, the rest are left out."""
        if self._model.fim is None:
            return []
        separator = self._tokenizer.control(self._model.fim.file_sep)
        tokens: list[int] = []
        for file in files:
            tokens += [separator, *self._tokenizer.encode(f"{file.path}\n{file.text[: budget * 8]}")]
            if len(tokens) >= budget:
                break
        return tokens[:budget]
