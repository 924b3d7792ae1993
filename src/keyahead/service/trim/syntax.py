"""What trimming has to know of a language: its strings and comments, the lines that open a block, the lines that close one.

A lexer of strings, comments and brackets is enough here. A parser would see more, but the text around a cursor is broken more often than
not, and an answer that only shortens a completion must be cheap and the same each time; so there is no grammar to install.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BRACKETS = {"(": ")", "[": "]", "{": "}"}

_CLOSING = r"[)\]}]+[;,]?"
_BRACES = r"[{(\[]$"
_CASES = _BRACES + r"|^\s*(?:case\b.*|default\s*):$"
# A character literal, or half of one where the text is over. It is no string: Rust's lifetimes and C++'s digit separators use the same
# quote, alone.
_CHARACTER = r"'(?:\\[^\n][^'\n]{0,8}|[^'\\\n]|\\?\Z)(?:'|(?P<half>\Z))"
_PYTHON = r"^\s*(?:(?:async|case|class|def|elif|else|except|finally|for|if|match|try|while|with)\b|[)\]}]).*:$|" + _BRACES
_RUBY = r"^\s*(?:begin|case|class|def|if|module|unless|until|while)\b|(?:\b(?:do|else|then)|\bdo\s*\|[^|]*\|)$|" + _BRACES
_LUA = r"(?:\b(?:do|else|repeat|then)|\bfunction\b[^()]*\([^()]*\))$|" + _BRACES
# An element that is neither closed nor void (HTML living standard, 13.1.2), at the end of the line.
_TAG = r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b)[A-Za-z][^<>]*(?<!/)>$"


@dataclass(frozen=True, slots=True)
class Syntax:
    """One language's lexical habits."""

    mark: re.Pattern[str]
    """Finds the next bracket, character literal, or beginning of a string or comment."""
    opener: re.Pattern[str]
    """Matches a line of code, stripped on the right, that opens a block."""
    closer: re.Pattern[str]
    """Matches the beginning of a stripped line that closes a block."""


def _syntax(marks: str, opener: str = _BRACES, closer: str = _CLOSING) -> Syntax:
    """`marks` names what begins a string or a comment, longest first; CHAR stands for character literals."""
    parts = [_CHARACTER if mark == "CHAR" else r"#(?<!\S#)" if mark == "#" else re.escape(mark) for mark in marks.split()]
    mark = re.compile("|".join([*parts, r"[()\[\]{}]"]))
    return Syntax(mark, re.compile(opener), re.compile(closer))


_NOTHING = Syntax(re.compile(r"(?!)"), re.compile(r"(?!)"), re.compile(r"(?!)"))
_MARKUP = Syntax(re.compile(r"(?!)"), re.compile(_TAG), re.compile(r"</[\w:.-]*>?"))
_OTHER = _syntax('"')
_HASH = _syntax("# \" '")
_C = _syntax('// /* " CHAR', _CASES)
_C_TEXT = _syntax('// /* """ " CHAR', _CASES)
_SCRIPT = _syntax("// /* \" ' `", _CASES)
_STYLE = _syntax("/* \" '")

_SYNTAXES = {
    **dict.fromkeys(("c", "cpp", "rust", "zig", "proto"), _C),
    **dict.fromkeys(("csharp", "java", "kotlin", "scala", "swift"), _C_TEXT),
    **dict.fromkeys(("javascript", "typescript", "php", "dart"), _SCRIPT),
    **dict.fromkeys(("css", "less", "scss"), _STYLE),
    **dict.fromkeys(("html", "xml", "vue", "svelte"), _MARKUP),
    **dict.fromkeys(("markdown", "plaintext"), _NOTHING),
    **dict.fromkeys(("cmake", "dockerfile", "perl", "r", "toml"), _HASH),
    "elixir": _syntax("# \" '", r"(?:\bdo|->)$|" + _BRACES, _CLOSING + r"|end\b"),
    "go": _syntax('// /* " ` CHAR', _CASES),
    "haskell": _syntax('-- " CHAR', r"\b(?:do|of|where)$|" + _BRACES),
    "julia": _syntax('# """ "', r"^\s*(?:begin|for|function|if|let|module|struct|try|while)\b|" + _BRACES, _CLOSING + r"|end\b"),
    "lua": _syntax("-- \" '", _LUA, _CLOSING + r"|end\b"),
    "makefile": _syntax("# \" '", r"^[^\s#=:][^#=:]*::?(?!=)"),
    "python": _syntax("# \"\"\" ''' \" '", _PYTHON),
    "ruby": _syntax("# \" '", _RUBY, _CLOSING + r"|end\b"),
    "shell": _syntax("# \" '", r"\b(?:do|else|in|then)$|" + _BRACES, _CLOSING + r"|(?:done|esac|fi)\b"),
    "sql": _syntax("-- /* \" '", r"\bbegin$|" + _BRACES),
    "yaml": _syntax("# \" '", r"(?::|:\s*[|>][+-]?|^\s*-)$|" + _BRACES),
}


def syntax_of(language: str) -> Syntax:
    """The habits of a language by its normal identifier; an unknown one has brackets and double quotes."""
    return _SYNTAXES.get(language, _OTHER)
