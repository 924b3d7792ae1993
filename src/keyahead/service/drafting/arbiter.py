"""Whether to draft, what and how much: recent acceptance against the measured cost of verifying.

Synchronous and without a clock. A draft grows token by token: of all that sources propose next, the likeliest. If its tokens are right with
probabilities p1, p2, …, each given those before it, verifying K of them yields 1 + p1 + p1·p2 + … tokens on average (after Leviathan et
al. 2023, section 3.1), for the time of one step with K more tokens in it. The arbiter takes the length with the most tokens per
millisecond, and none if plain decoding gives more.

How often a kind of candidate is right is learned from every token decoded, whether the candidate was drafted or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

MARGIN = 1.02
"""A draft must promise so many times the rate of plain decoding: estimates err."""
_COST_MEMORY = 0.97
"""Weight of what was before each new observation: some 30 observations count."""
_MEMORY = 0.99
"""The same for how often candidates are right, which are observed with every token: some 100 count."""
_PRIOR_WEIGHT = 3.0
_PRIOR_RIGHT = 0.3
"""How often a candidate is right of whose kind nothing is known: what one previous token tells, in the typing replay."""
_PRIOR_FIT = 0.5
_OVERHEAD_SHARE = 0.15
"""What the calls of plain decoding may add to its time. Behind every token there may be something to draft again: in the typing replay,
calls of one token took least time in all where a call cost up to a fifth of a step, and calls of three where it cost half."""
_MOST_PIECE = 64


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may come next."""

    token: int
    source: str
    evidence: tuple[int, ...] = ()
    """What speaks for it, by the source's own measures, coarsely: acceptance is learned for each value."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next, one behind the other."""

    candidates: tuple[Candidate, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the engine verifies."""
        return tuple(candidate.token for candidate in self.candidates)


@dataclass(slots=True)
class _Rate:
    """A probability, from outcomes that fade."""

    prior: float
    memory: float
    hits: float = 0.0
    misses: float = 0.0

    @property
    def value(self) -> float:
        return (self.hits + self.prior * _PRIOR_WEIGHT) / (self.hits + self.misses + _PRIOR_WEIGHT)

    def observe(self, *, right: bool) -> None:
        self.fade()
        self.hits += right
        self.misses += not right

    def fade(self) -> None:
        self.hits *= self.memory
        self.misses *= self.memory


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
            setattr(self, name, _COST_MEMORY * getattr(self, name) + value)
        self.overhead += (1 - _COST_MEMORY) * (overhead_ms - self.overhead)

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
    _right: dict[tuple[str, tuple[int, ...]], _Rate] = field(default_factory=dict)
    """By source and evidence."""
    _fitting: _Rate = field(default_factory=lambda: _Rate(_PRIOR_FIT, _COST_MEMORY))
    """How often the model's own first token fitted the text that healing took back."""

    def choose(self, candidates: Callable[[Sequence[int]], Iterable[Candidate]], most: int, *, healing: bool) -> Draft | None:
        """The best draft of at most `most` tokens; None when decoding without is faster.

        Args:
            candidates: what may come behind the tokens that it is given.
            most: tokens of a draft.
            healing: the first token is to begin with the text taken back; if the model's does not, the step is in vain.

        """
        certain = self._fitting.value if healing else 1.0
        plain = 1 / (self.cost.step(0) + (self.cost.overhead if healing else 0.0))
        chosen: list[Candidate] = []
        reach, tokens, rate = 1.0, 1.0, 0.0
        while len(chosen) < most:
            best = max(candidates([each.token for each in chosen]), key=self._chance, default=None)
            if best is None:
                break
            reach *= self._chance(best)
            tokens += reach
            longer = certain * tokens / (self.cost.step(len(chosen) + 1) + self.cost.overhead)
            if longer <= rate:
                break  # Nor would any longer one be better, since the reach only shrinks.
            chosen.append(best)
            rate = longer
        if rate > MARGIN * plain:
            return Draft(tuple(chosen))
        if healing:
            self._fitting.fade()  # What is never tried is forgotten little by little, and so gets another chance.
        return None

    def learn(self, candidates: Iterable[Candidate], token: int) -> None:
        """What had been proposed for a place, and the model's own token there."""
        for each in candidates:
            self._rate(each).observe(right=each.token == token)

    def verified(self, draft: Draft, accepted: int) -> None:
        """So many of the draft's tokens were the model's own."""
        drafted = Counter(each.source for each in draft.candidates)
        right = Counter(each.source for each in draft.candidates[:accepted])
        for source, count in drafted.items():
            self.on_verified(source, count, right[source])

    def healed(self, *, fits: bool) -> None:
        """Whether the model's first token began with the text taken back."""
        self._fitting.observe(right=fits)

    def piece(self) -> int:
        """Tokens to decode in one call without drafts, before drafts are looked for again: few, but not so few that the calls cost much."""
        wanted = self.cost.overhead / (_OVERHEAD_SHARE * self.cost.step(0))
        return max(1, min(_MOST_PIECE, round(wanted)))

    def _chance(self, candidate: Candidate) -> float:
        return self._rate(candidate).value

    def _rate(self, candidate: Candidate) -> _Rate:
        kind = candidate.source, candidate.evidence
        if kind not in self._right:
            self._right[kind] = _Rate(_PRIOR_RIGHT, _MEMORY)
        return self._right[kind]
