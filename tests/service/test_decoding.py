"""Tokens become text, healed text is skipped, and stop rules end a decode."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.decoding import Decoding
from keyahead.service.model import FinishReason
from keyahead.service.trim import TrimContext


def make(tokenizer: Tokenizer, healed: bytes = b"", *, multiline: bool = True, most: int = 64) -> Decoding:
    """A decode at the end of a short Python file."""
    return Decoding(tokenizer, healed, TrimContext("x = 1\n", "", "python", multiline, complete=True), most)


@settings(deadline=None, max_examples=50)
@given(text=st.text("abc xyz_=()\n\té界🎉", min_size=1, max_size=40))
def test_tokens_give_their_text_back_whole(tokenizer: Tokenizer, text: str) -> None:
    """Characters split over tokens are joined, and each token's end is known."""
    decoding = make(tokenizer, most=1000)
    for token in tokenizer.encode(text):
        decoding._append(token)
    assert decoding.text == text
    assert decoding.token_ends[-1] == len(text)
    assert decoding.token_ends == sorted(decoding.token_ends)


def test_healed_text_is_not_part_of_the_completion(tokenizer: Tokenizer) -> None:
    """The first token begins with what stands before the cursor already."""
    decoding = make(tokenizer, b"re")
    decoding.feed(tokenizer.encode("return x"))
    assert decoding.text == "turn x"


def test_a_single_line_ends_at_its_end(tokenizer: Tokenizer) -> None:
    """The first newline after content stops a single-line decode, and later tokens are ignored."""
    decoding = make(tokenizer, multiline=False)
    decoding.feed(tokenizer.encode("y = compute(x)\nz = 2\n"))
    assert decoding.finish is FinishReason.STOP
    assert decoding.suggestion() == "y = compute(x)"


def test_a_control_token_ends_and_never_shows(tokenizer: Tokenizer) -> None:
    """Whatever the model says behind its end marker is dropped."""
    decoding = make(tokenizer)
    decoding.feed([*tokenizer.encode("y = 2"), min(tokenizer.control_ids), *tokenizer.encode("leak")])
    assert decoding.finish is FinishReason.STOP
    assert decoding.text == "y = 2"


def test_the_limit_ends_a_decode(tokenizer: Tokenizer) -> None:
    """After max_tokens the reason is LENGTH."""
    decoding = make(tokenizer, most=3)
    decoding.feed(tokenizer.encode("alpha = beta + gamma + delta"))
    assert (decoding.finish, len(decoding.tokens)) == (FinishReason.LENGTH, 3)
