"""Strings, comments and brackets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.trim.lexical import code_of, severs, tokens, unclosed
from keyahead.service.trim.syntax import syntax_of


@pytest.mark.parametrize(
    ("language", "text", "marks"),
    [
        ("python", "f('(') # )", ["(", "'", ")", "#"]),
        ("python", "'''a\n(''' (", ["'''", "("]),
        ("python", "'a\\'(' [", ["'", "["]),
        ("python", "'open (\n)", ["'", ")"]),
        ("python", "f(#", ["("]),
        ("javascript", "`a\n(` // )\n}", ["`", "//", "}"]),
        ("javascript", "/* ( */ {", ["/*", "{"]),
        ("rust", "&'a str, '(', (", ["'('", "("]),
        ("rust", "'\\'' (", ["'\\''", "("]),
        ("css", "url(http://a.b)", ["(", ")"]),
        ("markdown", "don't (", []),
    ],
)
def test_tokens(language: str, text: str, marks: list[str]) -> None:
    """Brackets are seen in code only; strings and comments are one token each, by the language's rules."""
    assert [token.mark for token in tokens(text, syntax_of(language))] == marks


@given(text=st.text(alphabet="ab'\"`\\\n()#/*-{}"), language=st.sampled_from(["python", "javascript", "rust", "sql", "go"]))
def test_tokens_in_order(text: str, language: str) -> None:
    """Tokens come in order, do not overlap, are never empty and stay in the text."""
    position = 0
    for token in tokens(text, syntax_of(language)):
        assert position <= token.start < token.end <= len(text)
        position = token.end


def test_code_of() -> None:
    """A comment is no code, but a comment's mark in a string is."""
    assert code_of("x = '#'  # note", syntax_of("python")) == "x = '#'"


def test_unclosed() -> None:
    """Only brackets that stay open are told, outermost first."""
    assert unclosed("a(b[c](", syntax_of("python")) == [1, 6]


@pytest.mark.parametrize(("text", "cut", "severed"), [("f(a)", 3, True), ("f(a))", 4, False), ("'ab'", 2, True), ("f('", 2, True)])
def test_severs(text: str, cut: int, *, severed: bool) -> None:
    """A cut severs a pair of brackets or quotes that stands on both sides of it, and a quote that it would take away."""
    assert severs(text, cut, syntax_of("python")) is severed
