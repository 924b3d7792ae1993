"""Where a block has just been opened."""

from __future__ import annotations

import pytest

from keyahead.service.trim import opens_block

CURSOR = "▮"


@pytest.mark.parametrize(
    ("language", "document"),
    [
        ("python", "def f(x):▮"),
        ("python", "def f(x):▮\n\ndef g():\n    pass\n"),
        ("python", "def f(x):  # the first▮"),
        ("python", "def f(x):\n    ▮"),
        ("python", "def f(x):\n▮"),
        ("python", 'def f(x):\n    """Says what f does.\n\n    At length.\n    """\n    ▮'),
        ("python", "def f(\n    x,\n) -> int:\n    ▮\n"),
        ("python", "if x:\n    # the rare case\n    ▮\nelse:\n    stop()\n"),
        ("python", "call(▮"),
        ("javascript", "if (x) {▮}"),
        ("javascript", "run(() => {▮});"),
        ("javascript", "if (x) {\n  ▮\n}\n"),
        ("go", "func f() {\n\t▮\n}\n"),
        ("cpp", "switch (x) {\ncase 1:▮\n}\n"),
        ("html", "<ul class='a'>▮\n</ul>"),
        ("css", ".menu {▮}"),
        ("yaml", "jobs:▮\nname: x\n"),
        ("yaml", "run: |▮"),
        ("makefile", "all: main.o▮"),
        ("shell", "if true; then▮"),
        ("ruby", "items.each do |item|▮"),
        ("lua", "local function f(x)▮"),
    ],
)
def test_opened(language: str, document: str) -> None:
    """A block was opened right before the cursor, and its body is not there."""
    prefix, _, suffix = document.partition(CURSOR)
    assert opens_block(prefix, suffix, language)


@pytest.mark.parametrize(
    ("language", "document"),
    [
        ("python", "▮"),
        ("python", "x = ▮"),
        ("python", "def f(x):▮\n    return x\n"),
        ("python", "def f(x):\n    ▮\n    return x\n"),
        ("python", "def f(x):▮ return x"),
        ("python", "def f(x▮):"),
        ("python", 'sizes = {"a":▮'),
        ("python", "# like this:▮"),
        ("python", "x = 1\n▮"),
        ("javascript", "if (x) {▮ stop(); }"),
        ("javascript", "if (x) {\n  start();\n  ▮\n}\n"),
        ("javascript", "call(▮)"),
        ("javascript", "return x; // {▮"),
        ("go", "func f() {▮\n\treturn\n}\n"),
        ("html", "<p>text</p>▮"),
        ("html", "<br>▮"),
        ("html", "<img src='a'/>▮"),
        ("makefile", "CC := gcc▮"),
        ("yaml", "name: x▮"),
        ("markdown", "For example:▮"),
    ],
)
def test_not_opened(language: str, document: str) -> None:
    """No block was opened before the cursor, or it has its body already, or something stands in the way."""
    prefix, _, suffix = document.partition(CURSOR)
    assert not opens_block(prefix, suffix, language)
