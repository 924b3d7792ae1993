"""Whether to draft, from which source and how much: recent acceptance against the measured cost of verifying.

Synchronous and without a clock. For a source whose drafts are accepted token by token with probability p, verifying K of them yields
1 + p + p² + … + p^K tokens on average (Leviathan et al. 2023, section 3.1), for the time of one step with K more tokens in it. The arbiter
takes the draft with the most tokens per millisecond, and none if plain decoding gives more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MARGIN = 1.02
"""A draft must promise so many times the rate of plain decoding: estimates err."""
_MEMORY = 0.97
"""Weight of what was before each new observation: some 30 observations count."""
_PRIOR_WEIGHT = 3.0
_PRIOR_ACCEPTANCE = 0.6
_PRIOR_FIT = 0.8
_OVERHEAD_SHARE = 0.03
"""What the calls of plain decoding may add to its time."""
_MOST_PIECE = 64


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next."""

    source: str
    tokens: tuple[int, ...]
    matched: int = 0
    """Characters of evidence, see `Guess`."""

    @property
    def kind(self) -> str:
        """What acceptance is learned by: a source, and whether its evidence was long."""
        return f"{self.source}/{self.matched.bit_length()}"


@dataclass(slots=True)
class _Rate:
    """A probability, from outcomes that fade."""

    prior: float
    hits: float = 0.0
    misses: float = 0.0

    @property
    def value(self) -> float:
        return (self.hits + self.prior * _PRIOR_WEIGHT) / (self.hits + self.misses + _PRIOR_WEIGHT)

    def observe(self, hits: int, misses: int) -> None:
        self.fade()
        self.hits += hits
        self.misses += misses

    def fade(self) -> None:
        self.hits *= _MEMORY
        self.misses *= _MEMORY


@dataclass(slots=True)
class StepCost:
    """Milliseconds of a step by the drafts in it, as a line through what was measured (least squares with forgetting)."""

    # One step without and one with eight drafts, as first measured (docs/design.md); real steps soon outweigh them.
    weight: float = 2.0
    drafts: float = 8.0
    squares: float = 64.0
    times: float = 72.0
    products: float = 8 * 42.0
    overhead: float = 3.0
    """Milliseconds that a call adds to its steps: two hops, Triton, the event loop."""

    def observe(self, drafts: int, step_ms: float, overhead_ms: float) -> None:
        """Take one step's time, and what its call took beside it."""
        for name, value in (("weight", 1), ("drafts", drafts), ("squares", drafts**2), ("times", step_ms), ("products", drafts * step_ms)):
            setattr(self, name, _MEMORY * getattr(self, name) + value)
        self.overhead += (1 - _MEMORY) * (overhead_ms - self.overhead)

    def step(self, drafts: int) -> float:
        """Milliseconds of a step that verifies so many drafts."""
        mean = self.times / self.weight
        spread = self.squares * self.weight - self.drafts**2
        # Without any spread in what was measured, a draft is taken to cost a twentieth of a step.
        slope = (self.products * self.weight - self.drafts * self.times) / spread if spread > 1e-6 else mean / 20
        return max(mean / 10, mean + max(0.0, slope) * (drafts - self.drafts / self.weight))


@dataclass(slots=True)
class Arbiter:
    """What one service process has learned of its sources and its engine."""

    on_verified: Callable[[str, int, int], None] = lambda *_: None
    """Told source, drafted and accepted tokens of every draft verified."""
    cost: StepCost = field(default_factory=StepCost)
    _accepted: dict[str, _Rate] = field(default_factory=dict)
    _fitting: dict[str, _Rate] = field(default_factory=dict)
    """How often the model's own first token fitted the text that healing took back."""

    def choose(self, drafts: Sequence[Draft], most: int, *, healing: bool) -> Draft | None:
        """The best of the drafts, cut to its best length, at most `most` tokens; None when decoding without is faster.

        With `healing` the first token is to begin with the text taken back; if the model's does not, the step was in vain.
        """
        best: Draft | None = None
        best_rate = MARGIN / (self.cost.step(0) + (self.cost.overhead if healing else 0.0))
        for draft in drafts:
            chance = self._rate(draft).value
            certain = self._fit(draft).value if healing else 1.0
            tokens, reach = 1.0, 1.0
            for length in range(1, min(most, len(draft.tokens)) + 1):
                reach *= chance
                tokens += reach
                rate = certain * tokens / (self.cost.step(length) + self.cost.overhead)
                if rate > best_rate:
                    best, best_rate = Draft(draft.source, draft.tokens[:length], draft.matched), rate
        for draft in drafts:
            if best is None or draft.kind != best.kind:
                # What is passed over is forgotten little by little, and so gets another chance.
                self._rate(draft).fade()
        return best

    def verified(self, draft: Draft, accepted: int) -> None:
        """So many of the draft's tokens were the model's own."""
        self._rate(draft).observe(accepted, int(accepted < len(draft.tokens)))
        self.on_verified(draft.source, len(draft.tokens), accepted)

    def healed(self, draft: Draft, *, fits: bool) -> None:
        """Whether the model's first token began with the text taken back."""
        self._fit(draft).observe(int(fits), int(not fits))

    def piece(self) -> int:
        """Tokens to decode in one call without drafts, before drafts are looked for again: enough that the calls cost next to nothing."""
        wanted = self.cost.overhead / (_OVERHEAD_SHARE * self.cost.step(0))
        return max(1, min(_MOST_PIECE, round(wanted)))

    def _rate(self, draft: Draft) -> _Rate:
        return self._accepted.setdefault(draft.kind, _Rate(_PRIOR_ACCEPTANCE))

    def _fit(self, draft: Draft) -> _Rate:
        return self._fitting.setdefault(draft.kind, _Rate(_PRIOR_FIT))
