"""What all sources propose for one place."""

from __future__ import annotations

from dataclasses import dataclass

from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.drafting.ngrams import Answers
from keyahead.service.drafting.proposals import HEALING, Proposals
from keyahead.service.drafting.sources import Guess
from keyahead.service.prompt import Prompt


@dataclass(frozen=True)
class Text:
    """Goes on with the same text wherever it is asked."""

    text: str
    whole: bool = True
    name: str = "text"
    taken: bool | None = None

    def guess(self, written: str) -> Guess | None:
        return Guess(self.text, self.whole, matched=20, taken=self.taken)


def proposals(tokenizer: Tokenizer, *texts: Text, prompt: str = "x = 1\n", healed: str = "") -> Proposals:
    made = Prompt(tuple(tokenizer.encode(prompt)), healed.encode(), tokenizer.encode(healed)[0] if healed else 0)
    return Proposals(made, prompt + healed, tokenizer, texts, Answers()["a"])


def follow(tokenizer: Tokenizer, asked: Proposals, after: str, source: str) -> list[str]:
    """What a source proposes behind drafted text."""
    drafted = tokenizer.encode(after)
    return [tokenizer.decode([each.token]) for each in asked.candidates(drafted) if each.source == source]


def test_a_text_is_followed_as_long_as_it_agrees(tokenizer: Tokenizer) -> None:
    """Through drafts and through tokens that have come; behind another token, it says nothing."""
    asked = proposals(tokenizer, Text("return value"))
    asked.look_up("", b"")
    assert follow(tokenizer, asked, "", "text") == ["return"]
    assert follow(tokenizer, asked, "return", "text") == [" value"]
    assert follow(tokenizer, asked, "raise", "text") == []
    asked.came(tokenizer.encode("return")[0])
    assert follow(tokenizer, asked, "", "text") == [" value"]


def test_the_last_token_of_a_text_that_was_cut_is_not_proposed(tokenizer: Tokenizer) -> None:
    """It may be half of one."""
    asked = proposals(tokenizer, Text("return val", whole=False))
    asked.look_up("", b"")
    assert follow(tokenizer, asked, "return", "text") == []


def test_a_suggestion_that_was_taken_is_another_kind_than_one_that_was_rejected(tokenizer: Tokenizer) -> None:
    """So the arbiter learns apart how often their rest is right; what nobody spoke of is a third kind."""
    asked = proposals(tokenizer, *(Text("return value", taken=taken) for taken in (None, True, False)))
    asked.look_up("", b"")
    assert len({each.evidence for each in asked.candidates() if each.source == "text"}) == 3


def test_the_prompt_and_earlier_answers_are_sources(tokenizer: Tokenizer) -> None:
    """What followed the last tokens there is proposed, behind drafts, too."""
    asked = proposals(tokenizer, prompt="return value + 1\nreturn")
    asked.look_up("", b"")
    assert " value" in follow(tokenizer, asked, "", "prompt")
    assert " +" in follow(tokenizer, asked, " value", "prompt")
    for token in tokenizer.encode(" other\nreturn"):
        asked.came(token)
    assert " other" in follow(tokenizer, asked, "", "answers")


def test_only_what_heals_is_proposed_at_first(tokenizer: Tokenizer) -> None:
    """Tokens that begin with the text taken back, its own token among them; behind the first, anything."""
    asked = proposals(tokenizer, Text("turn value"), Text("quest", name="other"), prompt="rest = 1\nrest = 2\n", healed="re")
    asked.look_up("", b"re")
    first = [tokenizer.decode([each.token]) for each in asked.candidates()]
    assert {"return", "re", "request"} <= set(first)
    assert all(text.startswith("re") for text in first)
    assert HEALING in {each.source for each in asked.candidates()}
    assert follow(tokenizer, asked, "return", "text") == [" value"]


def test_half_a_character_is_not_continued_by_texts(tokenizer: Tokenizer) -> None:
    """Where healing took back half of one, only the token taken back is left."""
    asked = proposals(tokenizer, Text("value"), healed="re")
    asked.look_up("", "é".encode()[:1])
    assert {each.source for each in asked.candidates()} <= {HEALING}
