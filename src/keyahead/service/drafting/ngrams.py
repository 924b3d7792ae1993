"""Which token follows the last few: back-off n-grams, counted as tokens come.

A draft from a text needs one long place that goes on just so. A model's answers are made of shorter pieces that it repeats: the same name,
the same indentation, the same way to end a line, now behind another. So each context of one to `LONGEST_CONTEXT` tokens keeps the token
that most often came next. Tokens are kept as numbers, in memory only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cachetools import LRUCache

from keyahead.service.drafting.arbiter import Candidate

LONGEST_CONTEXT = 4
"""Tokens; what agrees for longer is found by the sources that search texts."""
_MOST_COUNTED = 3
"""A token that came so often is not made surer by coming again, and is replaced when others have come as often."""
_MAX_TENANTS = 64
_MAX_ANSWER_CONTEXTS = 8192
"""A tenant's last 300 answers or so, in 1.4 MB."""


class Ngrams:
    """Bounded: what has not come for longest is forgotten first."""

    def __init__(self, name: str, max_contexts: int) -> None:
        self.name = name
        self._max_contexts = max_contexts
        self._next: dict[tuple[int, ...], tuple[int, int]] = {}
        """The token that follows, by majority vote (Boyer and Moore 1981), and by how many votes it leads; the oldest first."""

    def learn(self, tokens: tuple[int, ...], num_known: int = 0) -> None:
        """Count each token behind those before it, less the first ones, which are known. About 1 ms for 1,000 tokens."""
        following = self._next
        for length in range(1, LONGEST_CONTEXT + 1):
            for at in range(max(length, num_known), len(tokens)):
                context, token = tokens[at - length : at], tokens[at]
                leading, votes = following.pop(context, (token, 0))
                if leading == token:
                    following[context] = token, min(votes + 1, _MOST_COUNTED)
                else:
                    following[context] = (leading, votes - 1) if votes > 1 else (token, 1)
        while len(following) > self._max_contexts:
            del following[next(iter(following))]

    def candidates(self, context: Sequence[int]) -> Iterator[Candidate]:
        """What may follow, the longest context first."""
        for length in range(min(LONGEST_CONTEXT, len(context)), 0, -1):
            if found := self._next.get(tuple(context[-length:])):
                yield Candidate(found[0], self.name, (length, found[1]))


class Answers(LRUCache[str, Ngrams]):
    """N-grams of what was decoded for each tenant, and for no other; those of the tenants that asked last."""

    def __init__(self) -> None:
        super().__init__(_MAX_TENANTS)

    def __missing__(self, tenant: str) -> Ngrams:
        """None yet."""
        self[tenant] = ngrams = Ngrams("answers", _MAX_ANSWER_CONTEXTS)
        return ngrams
