"""The cache folder: where it is, that nothing half-written is ever seen in it, and what the user is told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from keyahead.engine import store
from keyahead.engine.store import SetupError


class Recorder:
    """A Progress that remembers the titles of steps and the notes."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.heard = threading.Event()

    @contextmanager
    def step(self, title: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
        self.note(title)
        yield lambda _: None

    def note(self, line: str) -> None:
        self.said.append(line)
        self.heard.set()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KEYAHEAD_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/keyahead"),
        ({}, "/home/somebody/.cache/keyahead"),
    ],
)
def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str) -> None:
    """KEYAHEAD_CACHE wins over XDG_CACHE_HOME, which wins over ~/.cache."""
    for name in ("KEYAHEAD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(store.cache_dir()) == expected


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """While and after a failed write the old file stands, and nothing else is left."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), store.atomic_file(path) as temporary:  # noqa: PT012 - what happens inside is the point
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    with store.atomic_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """A folder appears with all its files, takes the place of an older one, and a failure leaves that one."""
    path = tmp_path / "folder"
    for text in ("first", "second"):
        with store.atomic_folder(path) as temporary:
            (temporary / text).write_text(text)
    with pytest.raises(ZeroDivisionError), store.atomic_folder(path):
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "second"]


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process with pipes."""
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """The unfinished folder of a process that was killed goes at the next try; that of a living process stays."""
    code = """import os, signal, sys
from pathlib import Path
from keyahead.engine import store
with store.atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with run_python(code, str(tmp_path / "folder")) as process:
        assert process.wait() == -signal.SIGKILL
    alive = tmp_path / f".folder.{os.getppid()}.part"
    alive.mkdir()
    with store.atomic_folder(tmp_path / "folder"):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"folder", alive.name}


HOLD = """import sys
from pathlib import Path
from keyahead.engine import store
with store.locked(Path(sys.argv[1]), "it", store.SilentProgress()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_waited_for_and_the_user_told(tmp_path: Path) -> None:
    """While another process holds the lock, the title says which, and the body runs only after it has let go."""
    path, recorder, entered = tmp_path / "artefact", Recorder(), threading.Event()

    def take() -> None:
        with store.locked(path, "the model", recorder):
            entered.set()

    with run_python(HOLD, str(path)) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        thread = threading.Thread(target=take)
        thread.start()
        assert recorder.heard.wait(10)
        assert not entered.is_set()
        process.communicate("")
        thread.join(10)
    assert entered.is_set()
    assert recorder.said == [f"Waiting for process {process.pid}, which is already preparing the model"]


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    """A process killed with the lock in hand blocks nobody."""
    recorder = Recorder()
    with run_python(HOLD, str(tmp_path / "artefact")) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        process.wait()
    with store.locked(tmp_path / "artefact", "it", recorder):
        assert recorder.said == []


def test_too_little_space_is_said_before_the_work(tmp_path: Path) -> None:
    """The sentence names the work, both sizes and the cure, also for a folder that is not there yet."""
    with pytest.raises(SetupError, match=r"The model needs 1\.2 EB of disk but .* has only .* free: .*KEYAHEAD_CACHE"):
        store.require_free_space(tmp_path / "a" / "b", 1 << 60, "The model")
    store.require_free_space(tmp_path / "a" / "b", 1, "The model")


def test_a_full_disk_is_one_clear_sentence(tmp_path: Path) -> None:
    """ENOSPC from the kernel becomes a SetupError with the cure; an error that nobody can cure stays what it was."""
    with pytest.raises(SetupError, match=r"the disk is full: free some space, or point KEYAHEAD_CACHE"), store.disk_errors(tmp_path):
        Path("/dev/full").write_bytes(b"x")
    with pytest.raises(FileNotFoundError), store.disk_errors(tmp_path):
        (tmp_path / "none").read_bytes()


@pytest.mark.parametrize("inside", ["x", "folder/x"])
def test_a_cache_folder_that_is_a_file_is_one_clear_sentence(tmp_path: Path, inside: str) -> None:
    """A file in the way is named."""
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"Cannot write .*file.*a file stands"), store.atomic_file(tmp_path / "file" / inside):
        pass


def test_growth_counts_every_byte_once(tmp_path: Path) -> None:
    """What the body writes is reported in full, whatever is moved meanwhile, and files that were there count, too."""
    (tmp_path / "before").write_bytes(b"x" * 5)
    counts: list[int] = []
    with store.growth(tmp_path, counts.append):
        (tmp_path / "part").write_bytes(b"x" * 1000)
        (tmp_path / "part").rename(tmp_path / "whole")
    assert sum(counts) == 1005


@given(st.lists(st.integers(0, 400), max_size=60))
def test_without_a_terminal_a_step_is_a_few_lines(pieces: list[int]) -> None:
    """However many calls, there is one line at the start, one at the end and at most one per tenth between, rising."""
    text, total = StringIO(), max(1, sum(pieces))
    with store.RichProgress(Console(file=text)).step("Load [x]", total) as advance:
        for piece in pieces:
            advance(piece)
    first, *middle, last = text.getvalue().splitlines()
    assert first.startswith("Load [x] (")
    assert last.startswith("Load [x]: done in ")
    tenths = [int(found[1]) for line in middle if (found := re.match(r"Load \[x\]: (\d+) % of", line))]
    assert len(tenths) == len(middle)
    assert tenths == sorted(set(tenths))


@pytest.mark.parametrize("total", [None, 2000])
def test_on_a_terminal_a_step_is_a_bar(total: int | None) -> None:
    """The bar shows the title and, if it is known, the size."""
    text = StringIO()
    progress = store.RichProgress(Console(file=text, force_terminal=True, width=120))
    with progress.step("Load", total) as advance:
        advance(1000)
    assert "Load" in text.getvalue()
    assert ("2.0/2.0 kB" in text.getvalue()) == bool(total)
