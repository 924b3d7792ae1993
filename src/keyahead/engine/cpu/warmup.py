"""Before the engine is ready: compile its kernels by use, and measure how much prefill fits into one step."""

from __future__ import annotations

import dataclasses
import logging

from keyahead.engine.contract import BLOCK_TOKENS, EngineRequest
from keyahead.engine.cpu.blocks import Block
from keyahead.engine.cpu.runner import Runner, timed
from keyahead.engine.cpu.scheduler import Limits, Slice, Step
from keyahead.engine.cpu.sequence import Sequence

log = logging.getLogger(__name__)

_CHUNKS = (8, 16, 32, 64)
_SHORT = (1, 2, 3, 4, 5, 6, 8)
"""Tokens of a step for which kernels are made ready: a key's worth of prompt, drafts, sequences side by side."""


def _step(num_tokens: int) -> Step:
    sequence = Sequence(EngineRequest(input_ids=tuple(range(1, num_tokens + 1))))
    sequence.blocks = [Block(index) for index in range(-(-num_tokens // BLOCK_TOKENS))]
    return Step([Slice(sequence, 0, tuple(sequence.tokens), 0, samples=True)])


def warm_up(runner: Runner, limits: Limits) -> Limits:
    """Run steps of the sizes that will occur; the limits with the largest chunk that keeps a step within `limits.chunk_ms`.

    Call it before the block pool is used: it writes into the first blocks.
    """
    for size in _SHORT:
        timed(runner, _step(size))
    chunk = _CHUNKS[0]
    for size in _CHUNKS:
        timed(runner, _step(size))  # The first run of a size makes its kernels.
        milliseconds = timed(runner, _step(size))
        log.info("step of %d tokens: %.0f ms", size, milliseconds)
        if milliseconds > limits.chunk_ms:
            break
        chunk = size
    return dataclasses.replace(limits, chunk=chunk)
