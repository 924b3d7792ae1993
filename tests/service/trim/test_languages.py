"""Language identifiers."""

from __future__ import annotations

import pytest

from keyahead.service.trim import language_of


@pytest.mark.parametrize(
    ("path", "language", "normal"),
    [
        ("src/app.py", "", "python"),
        ("src/app.py", "python", "python"),
        ("src/App.TSX", "", "typescript"),
        ("src/app.tsx", "typescriptreact", "typescript"),
        ("C:\\src\\Makefile", "", "makefile"),
        ("build/rules.mk", "", "makefile"),
        ("Dockerfile", "", "dockerfile"),
        ("lib/vector.hpp", "", "cpp"),
        ("run", "shellscript", "shell"),
        ("x.py", " Rust ", "rust"),
        ("x.unknown", "", ""),
        ("a.b/.py", "", ""),
        ("x.tar.rs", "", "rust"),
        ("", "", ""),
        ("notes", "cobol", "cobol"),
    ],
)
def test_language(path: str, language: str, normal: str) -> None:
    """The editor's word comes first, then the file's name; both in one spelling."""
    assert language_of(path, language) == normal
