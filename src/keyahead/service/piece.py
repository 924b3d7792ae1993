"""What a running decode has for one request so far."""

from __future__ import annotations

from dataclasses import dataclass

from keyahead.service.confidence import p_accept
from keyahead.service.extent import ENOUGH_TOKENS, first_lines, is_whole, num_tokens
from keyahead.service.generation import Generation, Place
from keyahead.service.task import Task


@dataclass(frozen=True, slots=True)
class Piece:
    """A suggestion, finished or not."""

    text: str
    num_tokens: int
    settled: bool
    """It ends where AUTO wants it to end; further tokens do not change it."""
    enough: bool
    """Worth giving although more follows, if its request does not wait for the whole."""
    ghost: str
    """What may be shown while decoding goes on; it may run ahead of `text` by an unfinished word."""
    p_accept: float
    """See `confidence.py`."""


def piece_of(generation: Generation, place: Place, task: Task, *, early: bool) -> Piece:
    """What a generation has for a place at or behind its own; `early` takes whole lines, too, however short."""
    decoding = generation.decoding
    typed = len(place.prefix) - len(generation.place.prefix)
    ends = decoding.ends_after(typed)
    text, ghost = decoding.suggestion()[typed:], decoding.shown()[typed:]
    whole = is_whole(text, decoding.text[typed:])
    lines = first_lines(text, ends, 1 if early else ENOUGH_TOKENS, whole=whole) if task.by_lines else None
    if lines is not None:
        text = ghost = lines
    tokens = num_tokens(text, ends)
    chance = p_accept(generation.speculation.log_probs, tokens, text.count("\n"))
    return Piece(text, tokens, settled=lines is not None, enough=tokens >= ENOUGH_TOKENS or (early and whole), ghost=ghost, p_accept=chance)
