"""What a query comes to once its mode is settled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from keyahead.cache import Scope
from keyahead.service.config import ServiceConfig
from keyahead.service.model import Mode, Query
from keyahead.service.prompt import PROMPT_VERSION
from keyahead.service.trim import TrimContext, language_of, opens_block


@dataclass(frozen=True, slots=True)
class Task:
    """How much to decode for a query, and for whom it may be served again."""

    scope: Scope
    trimming: TrimContext
    max_tokens: int
    by_lines: bool
    """Whether the answer is cut at a line's end (see extent.py)."""
    patient: bool
    """Whether the whole is awaited."""


def task_of(query: Query, config: ServiceConfig, fingerprint: str) -> Task:
    """The task of a query; `fingerprint` tells the weights."""
    language = language_of(query.path, query.language)
    block = query.mode is Mode.BLOCK or (query.mode is Mode.AUTO and _begins_block(query, language))
    max_tokens = query.max_tokens or (config.block_tokens if block else config.single_line_tokens)
    trimming = TrimContext(query.prefix, query.suffix, language, query.mode is not Mode.SINGLE_LINE, complete=True)
    by_lines = query.mode is Mode.AUTO and not block
    return Task(_scope(query, language, fingerprint), trimming, max_tokens, by_lines, query.patient)


def _scope(query: Query, language: str, fingerprint: str) -> Scope:
    """By the mode asked for, not what AUTO comes to: whoever types into a block's suggestion goes on to be shown that block."""
    context = hashlib.blake2b(digest_size=8)
    for file in query.context:
        context.update(f"{len(file.path)}:{len(file.text)}:{file.path}{file.text}".encode())
    parameters = f"{query.mode.value}:{query.max_tokens}:{language}:{context.hexdigest()}"
    return Scope(query.tenant, fingerprint, PROMPT_VERSION, parameters)


def _begins_block(query: Query, language: str) -> bool:
    """AUTO completes more than the line where a block has just been opened, and on an empty line, where a statement begins."""
    line = query.prefix[query.prefix.rfind("\n") + 1 :]
    return opens_block(query.prefix, query.suffix, language) or (not line.strip() and not query.suffix.partition("\n")[0].strip())
