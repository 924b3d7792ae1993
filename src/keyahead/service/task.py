"""What a query comes to once its mode is settled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property

from keyahead.cache import Scope
from keyahead.service.config import ServiceConfig
from keyahead.service.model import ContextFile, Mode, Query
from keyahead.service.prompt import PROMPT_VERSION
from keyahead.service.trim import TrimContext, language_of, opens_block


class Task:
    """How much to decode for a query, and for whom it may be served again. Only the scope is worked out at once: most hits need no more."""

    def __init__(self, query: Query, config: ServiceConfig, fingerprint: str) -> None:
        """`fingerprint` tells the weights."""
        self._query = query
        self._config = config
        self._language = language_of(query.path, query.language)
        self.scope = _scope(query, self._language, fingerprint)

    @property
    def patient(self) -> bool:
        """Whether the whole is awaited."""
        return self._query.patient

    @cached_property
    def trimming(self) -> TrimContext:
        """What trimming has to know."""
        query = self._query
        return TrimContext(query.prefix, query.suffix, self._language, query.mode is not Mode.SINGLE_LINE, complete=True)

    @property
    def max_tokens(self) -> int:
        """To decode at most."""
        return self._query.max_tokens or (self._config.block_tokens if self._block else self._config.single_line_tokens)

    @property
    def by_lines(self) -> bool:
        """Whether the answer is cut at a line's end (see extent.py)."""
        return self._query.mode is Mode.AUTO and not self._block

    @cached_property
    def _block(self) -> bool:
        mode = self._query.mode
        return mode is Mode.BLOCK or (mode is Mode.AUTO and _begins_block(self._query, self._language))


def _scope(query: Query, language: str, fingerprint: str) -> Scope:
    """By the mode asked for, not what AUTO comes to: whoever types into a block's suggestion goes on to be shown that block."""
    parameters = f"{query.mode}:{query.max_tokens}:{language}:{_digest(query.context) if query.context else ''}"
    return Scope(query.tenant, fingerprint, PROMPT_VERSION, parameters)


def _digest(context: Iterable[ContextFile]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for file in context:
        digest.update(f"{len(file.path)}:{len(file.text)}:{file.path}{file.text}".encode())
    return digest.hexdigest()


def _begins_block(query: Query, language: str) -> bool:
    """AUTO completes more than the line where a block has just been opened, and on an empty line, where a statement begins."""
    line = query.prefix[query.prefix.rfind("\n") + 1 :]
    return opens_block(query.prefix, query.suffix, language) or (not line.strip() and not query.suffix.partition("\n")[0].strip())
