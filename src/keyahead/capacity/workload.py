"""What typists ask for and what an engine is: the nouns of the simulation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from keyahead.capacity.steps import StepTime
from keyahead.loadtest.pace import Quantiles

BUDGET_S = 0.16
"""An automatic request is answered within this (`latency_budget_ms` of the service)."""
READING_PART = 0.35
"""Of the budget: a prompt that takes longer to read is shortened, and the whole one is read behind it (`service/cold.py`)."""
LONG_PROMPT = 512
"""Tokens of a prompt by which the service learns how fast an engine reads."""
ON_TIME_S = 0.2
"""The promise, from the key to the answer."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a typist's keys ask for. Shares and tokens are those of a load test; how fast keys come is `loadtest/pace.py`."""

    new_share: float
    """Of the requests, those that no suggestion answers that is there or being decoded: the model has to begin anew."""
    places_per_request: float
    """How often a request is the first at a place whose prompt the engine has never read."""
    prompt_tokens: int
    """Of such a prompt."""
    warm_tokens: int
    """Of any other prompt, those behind what the engine has read."""
    answer_tokens: float
    """Mean of an answer, decoded whole, without the healed one. Their number is taken to be geometric: it may end with each token alike."""
    least_tokens: float
    """An answer that is cut with fewer has nothing to show, once it is cut back to a whole word."""
    around_s: Quantiles
    """What lies around the engine in a request: connection, service and cache. A hit takes nothing else."""

    def with_hits(self, share: float) -> Workload:
        """The same typists, of whose requests this share finds a suggestion that is there or being decoded."""
        return dataclasses.replace(self, new_share=1 - share)


@dataclass(frozen=True, slots=True)
class Engine:
    """One replica of the engine."""

    name: str
    steps: StepTime
    places: int
    """Answers at the engine at once; a service gives a tenant that is alone three quarters of `engine_places`."""
    chunk: int
    """Tokens of a long prompt in one step, and the longest piece that counts as short."""
    patience: int
    """Steps that a long prompt waits at most for short pieces; 0 where prompts and decoding always share a step."""
    call_s: float
    """What a call to the engine takes beside its steps."""
    calls: float
    """Of an answer's steps, how many are a call of their own: drafts are verified one by one, plain decoding comes in pieces."""
    vain: float
    """Steps of an answer, in the mean, before the first that gives anything: drafts tried for the healed token that did not fit."""
    given: float
    """Tokens that a later step gives an answer, accepted drafts included."""
    computed: float
    """Tokens that a step computes for it, drafts included."""
    warm_prompts: float
    """Prompts whose KV it keeps."""
    kv_store_bytes: float
    """KV that it keeps in Redis besides, at most."""
    slowdown: float = 1.0
    """How many times as long a step takes beside what else runs on the machine: a service, a Redis, the load's generator."""

    def step_s(self, tokens: float, sequences: int) -> float:
        """Seconds of a step in use."""
        return self.slowdown * self.steps(tokens, sequences)

    @property
    def read_s(self) -> float:
        """Seconds for each token of a long prompt that it reads: in chunks, or as much of it as goes into one step."""
        size = min(self.chunk, LONG_PROMPT)
        return self.step_s(size, 1) / size

    @property
    def readable_tokens(self) -> int:
        """Of a prompt, what is read in its part of the budget."""
        return int(READING_PART * BUDGET_S / self.read_s)
