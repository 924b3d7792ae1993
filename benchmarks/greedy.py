"""Greedy output against openvino_genai's own pipeline on the same converted model, and whether what differs is a tie.

Both decode the same prompts. At the first token that differs, a forward pass of our runner over the whole sequence gives the logits of both
candidates: a gap far below the usual distance between the two best tokens is a tie, which the shape of a batch decides.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

import numpy as np
from common import SEED, Engine, Figure, Genai, arguments, bare_step, report_figures, running_engine

from keyahead.engine.contract import Array

PROMPTS = 64
NEW_TOKENS = 16
PROMPT_TOKENS = (8, 120)
"""Shortest and longest prompt."""
MARGIN_PROMPTS = 10
"""Prompts over which the usual distance is taken."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt and its two continuations."""

    ids: list[int]
    theirs: list[int]
    ours: list[int]

    @property
    def agreed(self) -> int:
        """Length of the common beginning."""
        return next((i for i, (a, b) in enumerate(zip(self.theirs, self.ours, strict=True)) if a != b), NEW_TOKENS)


def prompts(engine: Engine) -> list[list[int]]:
    """Code of random lengths from random places."""
    chance = random.Random(SEED)  # noqa: S311 - a sample, not a secret
    return [engine.code(chance.randint(*PROMPT_TOKENS), chance.randrange(200_000)) for _ in range(PROMPTS)]


def logits(engine: Engine, pair: Pair) -> Array:
    """Rows of logits for each of our tokens, from one forward pass. The engine's cache is not to be used after this."""
    engine.runner.start(bare_step([*pair.ids, *pair.ours[:-1]], 0, num_drafts=NEW_TOKENS - 1))
    return engine.runner.finish()


def gap(engine: Engine, pair: Pair) -> float:
    """Distance of the two candidates' logits at the first difference."""
    row = logits(engine, pair)[pair.agreed]
    return abs(float(row[pair.ours[pair.agreed]]) - float(row[pair.theirs[pair.agreed]]))


def margins(engine: Engine, pair: Pair) -> list[float]:
    """Distances of the two best tokens' logits at each place."""
    best = np.partition(logits(engine, pair), -2, axis=1)[:, -2:]
    return [float(margin) for margin in best[:, 1] - best[:, 0]]


def main() -> None:
    options = arguments(__doc__)
    with running_engine() as engine:
        genai = Genai(engine.model)
        pairs = [Pair(ids, genai.greedy(ids, NEW_TOKENS), engine.ask(ids, max_new_tokens=NEW_TOKENS).tokens) for ids in prompts(engine)]
        differing = [pair for pair in pairs if pair.agreed < NEW_TOKENS]
        gaps = [gap(engine, pair) for pair in differing]
        usual = statistics.median(margin for pair in pairs[:MARGIN_PROMPTS] for margin in margins(engine, pair))
    baseline = f"usual distance of the two best: {usual:.2f}"
    figures = [
        Figure(
            "identical", f"outputs of {NEW_TOKENS} tokens that are identical", 1 - len(differing) / PROMPTS, "share", f"{PROMPTS} prompts"
        ),
        Figure("tokens_agreeing", "tokens before the first difference", sum(pair.agreed for pair in pairs) / PROMPTS / NEW_TOKENS, "share"),
    ]
    if gaps:
        figures += [
            Figure("gap_median", "logit gap at a first difference, median", statistics.median(gaps), "logits", baseline),
            Figure("gap_most", "the same, most", max(gaps), "logits", baseline),
        ]
    report_figures(f"Greedy output against openvino_genai, {len(differing)} of {PROMPTS} differ", figures, as_json=options.json)


if __name__ == "__main__":
    main()
