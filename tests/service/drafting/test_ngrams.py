"""Which token follows the last few."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.drafting.arbiter import Candidate
from keyahead.service.drafting.ngrams import LONGEST_CONTEXT, Answers, Ngrams

few = st.lists(st.integers(1, 4), max_size=40).map(tuple)


def learned(tokens: tuple[int, ...], max_contexts: int = 1000) -> Ngrams:
    ngrams = Ngrams("test", max_contexts)
    ngrams.learn(tokens)
    return ngrams


@given(few, few)
def test_candidates_are_what_followed_longer_contexts_first(tokens: tuple[int, ...], context: tuple[int, ...]) -> None:
    """One for each context that has occurred, and one that followed it; the likeliest, where one is in the majority throughout."""
    found = list(learned(tokens).candidates(context))
    lengths = [candidate.evidence[0] for candidate in found]
    assert lengths == sorted(lengths, reverse=True)
    for length in range(1, min(LONGEST_CONTEXT, len(context)) + 1):
        tail = context[-length:]
        followers = [tokens[at + length] for at in range(len(tokens) - length) if tokens[at : at + length] == tail]
        mine = [candidate.token for candidate in found if candidate.evidence[0] == length]
        assert len(mine) == bool(followers)
        assert set(mine) <= set(followers)
        if len(set(followers)) == 1:
            assert mine == [followers[0]]


@given(few, st.integers(0, 40))
def test_known_tokens_are_context_only(tokens: tuple[int, ...], cut: int) -> None:
    """Learned in two parts, the second with the tokens before it as known ones, is learned once."""
    known = tokens[:cut][-LONGEST_CONTEXT:]
    parts = learned(tokens[:cut])
    parts.learn((*known, *tokens[cut:]), len(known))
    assert parts._next == learned(tokens)._next


def test_a_habit_that_changes_is_unlearned() -> None:
    """What is sure takes a few contradictions, and no more however often it was right before."""
    ngrams = learned((1, 2) * 50)
    said: list[Candidate] = []
    for _ in range(4):
        ngrams.learn((1, 3))
        said += ngrams.candidates((1,))
    assert [candidate.token for candidate in said] == [2, 2, 3, 3]
    assert said[-1] == Candidate(3, "test", (1, 2))


@given(few, st.integers(1, 10))
def test_what_has_not_come_for_longest_is_forgotten_first(tokens: tuple[int, ...], most: int) -> None:
    """Memory is bounded, and the last token's contexts are kept."""
    ngrams = learned(tokens, most)
    assert len(ngrams._next) <= most
    if len(tokens) > 1:
        kept = Counter(len(context) for context in ngrams._next)
        assert kept[min(LONGEST_CONTEXT, len(tokens) - 1)] >= 1


def test_answers_of_one_tenant_are_proposed_to_no_other() -> None:
    """Each has n-grams of its own, and they are kept until many others have asked."""
    every = Answers()
    every["a"].learn((1, 2, 3))
    assert not list(every["b"].candidates((1, 2)))
    assert {candidate.token for candidate in every["a"].candidates((1, 2))} == {3}
    for number in range(10 * len(every) + 100):
        assert not list(every[str(number)].candidates((1, 2)))
    assert "a" not in every
    assert len(every) == every.maxsize
