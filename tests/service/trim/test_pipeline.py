"""Trimming as a whole: the golden cases, and what must hold for every text."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.service.trim import TrimContext, is_finished, trim

MANY = 60
GOLDEN = Path(__file__).parent / "golden"
LANGUAGES = ["python", "javascript", "go", "rust", "java", "cpp", "html", "css", "yaml", "makefile", "ruby", "shell", "markdown", ""]
# Enough pieces to build lines, blocks, strings, comments and markers of every kind, and their halves.
PIECES = [
    *"\r ()[]{}:;,'\"`\\#=<>|\ufffd\x00é",
    *("\n", "\n", "\n    ", "\n    ", "\n        ", "\n\t", "\n\n", "  ", "\r\n", "{\n", "\n}", "'''", '"""', "//", "/*", "*/", "--", "=="),
    *("<|", "|>", "<|end|>", "<fim_middle>", "return x", "return x", "if x:", "if (x) {", "else", "def f():", "end", "x", "y", "x = 1"),
    *("call(x)", "name", "</p>", "<p>", "0, ", "@a", "#[a]"),
]
code = st.lists(st.sampled_from(PIECES), max_size=24).map("".join)
texts = code | st.text(max_size=40)


@dataclass(frozen=True)
class Case:
    """One golden case as its file has it."""

    name: str
    answers: str
    raw: str
    want: str
    prefix: str
    suffix: str = ""
    language: str = "python"
    multiline: bool = False
    complete: bool = True

    @property
    def context(self) -> TrimContext:
        """What trimming is told."""
        return TrimContext(self.prefix, self.suffix, self.language, self.multiline, self.complete)


CASES = [Case(**case) for file in sorted(GOLDEN.glob("*.toml")) for case in tomllib.loads(file.read_text("utf-8"))["case"]]
golden = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.language}: {case.name}")


@st.composite
def contexts(draw: st.DrawFn) -> TrimContext:
    """Any place of a cursor in any text."""
    return TrimContext(draw(texts), draw(texts), draw(st.sampled_from(LANGUAGES)), draw(st.booleans()), draw(st.booleans()))


@golden
def test_golden(case: Case) -> None:
    """A raw completion is cut exactly as its golden case says."""
    assert trim(case.raw, case.context) == case.want


@golden
def test_golden_stream_stops_in_time(case: Case) -> None:
    """Stopping the engine as soon as it may be stopped gives what decoding to the end would have given."""
    for end in range(len(case.raw) + 1):
        if is_finished(case.raw[:end], case.context):
            assert trim(case.raw[:end], case.context) == case.want
            return


def test_block_ends_with_its_first_foreign_word() -> None:
    """Decoding a block stops at the first whole word outside it, not a line later."""
    context = TrimContext("class A:\n    def f(self):", "", "python", multiline=True, complete=True)
    assert not is_finished("\n        return 1\n    de", context)
    assert is_finished("\n        return 1\n    def ", context)


def test_golden_cases_are_many_and_distinct() -> None:
    """The cases of every file are found, each under its own name."""
    assert len(CASES) >= MANY
    assert len({(case.language, case.name) for case in CASES}) == len(CASES)


@given(raw=texts, context=contexts())
def test_only_shortens(raw: str, context: TrimContext) -> None:
    """The result is a beginning of the raw completion, so streamed ghost text and typed-through answers stay valid; nothing ever raises."""
    assert raw.startswith(trim(raw, context))


@given(raw=texts, context=contexts())
def test_idempotent(raw: str, context: TrimContext) -> None:
    """Trimming what has been trimmed changes nothing."""
    shown = trim(raw, context)
    assert trim(shown, replace(context, complete=True)) == shown


@given(raw=texts, more=texts, context=contexts())
def test_finished_is_final(raw: str, more: str, context: TrimContext) -> None:
    """Once decoding is said to be finished, no further text changes the result."""
    if is_finished(raw, context):
        assert is_finished(raw + more, context)
        assert trim(raw + more, context) == trim(raw, context)


@given(raw=texts, context=contexts())
def test_single_line_stays_on_its_line(raw: str, context: TrimContext) -> None:
    """A single-line answer has no line break within it, and decoding stops at the first one."""
    single = replace(context, multiline=False)
    assert "\n" not in trim(raw, single).removesuffix("\n")
    assert is_finished(raw + "\n", single)


@given(raw=texts, context=contexts())
def test_nothing_that_is_not_text_is_shown(raw: str, context: TrimContext) -> None:
    """No control token, control character or undecoded byte is shown, nor an answer too short to save a key."""
    shown = trim(raw, context)
    assert not {"\ufffd", "\x00"} & set(shown)
    assert "<|end|>" not in shown
    assert "<fim_middle>" not in shown
    assert len(shown.strip()) != 1


@pytest.mark.parametrize("piece", ["(", ")", "<", "\ufffd", "'", '"', "`", "\\", "a ", "a = b\n", "\n", " ", "/*", "<|a"])
def test_any_length_ends(piece: str) -> None:
    """A degenerate completion of 4 KiB in a file of a mebibyte is trimmed like any other."""
    context = TrimContext("x = [\n" * 200_000, "]\n" * 500_000, "rust", multiline=True, complete=False)
    raw = (piece * 4096)[:4096]
    assert raw.startswith(trim(raw, context))
