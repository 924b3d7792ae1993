"""What is typed, from real places."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from keyahead.loadtest.texts import TextError, from_folder, from_git
from tests.loadtest.conftest import source

CODE = source().text


def commit(repository: Path, message: str) -> None:
    """Commit everything there is."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    for command in (["add", "-A"], [*identity, "commit", "-q", "-m", message]):
        subprocess.run(["git", "-C", str(repository), *command], check=True, capture_output=True)


def test_a_folder_gives_what_people_type(tmp_path: Path) -> None:
    """Source files of a sensible size, with any line ends; no data, nothing generated, nothing of others."""
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "windows.go").write_bytes(CODE.replace("\n", "\r\n").encode())
    (tmp_path / "short.py").write_text("x = 1\n")
    (tmp_path / "long.js").write_text("x" * 5000)
    (tmp_path / "latin.py").write_bytes(CODE.encode() + b"# \xe9\n")
    (tmp_path / "data.json").write_text(CODE)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/b.js").write_text(CODE)
    found = {each.path: each for each in from_folder(tmp_path)}
    assert set(found) == {"a.py", "windows.go"}
    assert found["windows.go"].text == CODE
    assert (found["a.py"].language, found["windows.go"].language) == ("python", "go")


def test_a_folder_without_sources_is_an_error(tmp_path: Path) -> None:
    """It names the folder and the cure."""
    with pytest.raises(TextError, match="name another folder"):
        from_folder(tmp_path)


def test_a_history_gives_what_was_added(tmp_path: Path) -> None:
    """A file is as the newest commit that added to it left it, and only the added lines may be typed."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "a.py").write_text(CODE)
    commit(tmp_path, "one")
    lines = CODE.split("\n")
    added = [f"added_{number} = new_function({number}, {number})" for number in range(8)]
    (tmp_path / "a.py").write_text("\n".join([*lines[:20], *added, *lines[20:]]))
    (tmp_path / "b.txt").write_text(CODE)
    commit(tmp_path, "two")
    [found] = from_git(tmp_path)
    assert (found.path, found.places) == ("a.py", ((20, 28),))
    assert found.text.split("\n")[20:28] == added


def test_what_is_no_history_is_an_error(tmp_path: Path) -> None:
    """It names the place and the cure."""
    with pytest.raises(TextError, match="name a git repository"):
        from_git(tmp_path / "nowhere")
