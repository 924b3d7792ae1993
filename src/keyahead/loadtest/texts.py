"""What is typed: passages of real files, each a hole in its file that a person fills.

A file is taken as it is, some runs of whole lines are taken out, and the person types them back in, at one place after the other. So what
stands after the cursor is what a real file has there, and what stands before it was written by the same hand. A passage begins where an
editor's "new line" command would put the cursor: on a line of its own, indented.
"""

from __future__ import annotations

import random
import re
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MIN_BYTES, MAX_BYTES = 1_000, 200_000
"""Size of a file that is used. Below, there is nothing to type at; above, it was rarely typed by a person."""
MAX_LINE_CHARACTERS = 200
"""A file with a longer line is most likely data or generated."""
PASSAGES_PER_FILE = 3
MIN_LINES, MAX_LINES = 3, 15
"""Lines of a passage, equally likely. An assumption: how long people type at one place is not published."""
MIN_TYPED_CHARACTERS = 40
_NOT_TYPED_BY_USERS = {
    "site-packages",
    "dist-packages",
    "node_modules",
    "__pycache__",
    "test",
    "tests",
    "idle_test",
    ".git",
    ".venv",
    "venv",
}
LANGUAGES = {
    ".c": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".go": "go",
    ".h": "c",
    ".java": "java",
    ".js": "javascript",
    ".kt": "kotlin",
    ".php": "php",
    ".py": "python",
    ".rb": "ruby",
    ".rs": "rust",
    ".scala": "scala",
    ".sh": "shellscript",
    ".swift": "swift",
    ".ts": "typescript",
    ".tsx": "typescriptreact",
}
"""LSP identifier by the end of a file's name; other files are not typed."""
_GIT_TIMEOUT_S = 60.0
_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


class TextError(Exception):
    """There is nothing to type; the text is a sentence with the cure."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A hole in a file, and what is typed into it."""

    path: str
    language: str
    before: str
    typed: str
    after: str


@dataclass(frozen=True, slots=True)
class Source:
    """A text to type in: a file as it is, and where in it somebody typed."""

    path: str
    text: str
    places: tuple[tuple[int, int], ...] = ()
    """Lines, from and up to, that may be taken out. None: any."""

    @property
    def language(self) -> str:
        """LSP identifier."""
        return LANGUAGES[Path(self.path).suffix]


def from_folder(folder: Path | None = None) -> list[Source]:
    """The files of a folder that a person may have typed; by default the running Python's standard library. Raises TextError."""
    root = folder or Path(sysconfig.get_path("stdlib"))
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix in LANGUAGES and _NOT_TYPED_BY_USERS.isdisjoint(path.relative_to(root).parts)
    ]
    sources = [Source(str(path.relative_to(root)), text) for path in found if path.is_file() and (text := _read(path)) is not None]
    if not sources:
        raise TextError(f"{root} has no source files of {MIN_BYTES} to {MAX_BYTES} bytes: name another folder of texts.")
    return sources


def from_git(repository: Path, limit: int = 500) -> list[Source]:
    """Files as the newest commits left them; what a commit added is what is typed. Raises TextError."""
    sources: dict[str, Source] = {}
    for commit in _git(repository, "log", "--no-merges", f"--max-count={limit}", "--format=%H").split():
        names = _git(repository, "diff-tree", "--root", "--no-commit-id", "--name-only", "--diff-filter=AM", "-r", "-z", commit).split("\0")
        for name in names:
            if Path(name).suffix in LANGUAGES and name not in sources and (source := _added(repository, commit, name)):
                sources[name] = source
    if not sources:
        raise TextError(f"{repository} has no commit that added {MIN_LINES} lines of source in one place: name another history.")
    return [sources[name] for name in sorted(sources)]


def _added(repository: Path, commit: str, name: str) -> Source | None:
    """One file of a commit with the runs of lines that it added."""
    text = _usable(_git(repository, "show", f"{commit}:{name}"))
    if text is None:
        return None
    diff = _git(repository, "diff-tree", "--root", "--no-commit-id", "-p", "-U0", commit, "--", name)
    runs = [(int(start) - 1, int(start) - 1 + int(count or 1)) for start, count in _HUNK.findall(diff)]
    places = tuple((start, end) for start, end in runs if end - start >= MIN_LINES)
    return Source(name, text, places) if places else None


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    try:
        run = subprocess.run(command, capture_output=True, check=True, timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        raise TextError(f"{repository} could not be read by git: name a git repository with a history.") from None
    return run.stdout.decode(errors="replace")


def _read(path: Path) -> str | None:
    try:
        return _usable(path.read_bytes().decode()) if MIN_BYTES <= path.stat().st_size <= MAX_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None


def _usable(text: str) -> str | None:
    """The text with an editor's line ends, if a person may have typed it."""
    text = text.replace("\r\n", "\n")
    long = any(len(line) > MAX_LINE_CHARACTERS for line in text.split("\n"))
    return None if long or "\0" in text or "\r" in text or not MIN_BYTES <= len(text) <= MAX_BYTES else text


def deal(sources: Sequence[Source], seed: int, typist: int, typists: int) -> list[Source]:
    """The files of one typist of so many, in the order in which they are opened. No two typists share a file."""
    shuffled = list(sources)
    random.Random(f"{seed} files").shuffle(shuffled)  # noqa: S311  # repeatable on purpose
    return shuffled[typist::typists]


def passages(source: Source, rng: random.Random) -> Iterator[Passage]:
    """The passages of one file in the order in which they are typed. None if the file has no fitting place."""
    lines = source.text.split("\n")
    holes = _holes(lines, source.places, rng)
    rng.shuffle(holes)
    open_holes = set(range(len(holes)))
    for number, (start, end) in enumerate(holes):
        others = [holes[each] for each in open_holes if each != number]
        typed = "\n".join(lines[start:end])
        indent = len(typed) - len(typed.lstrip())
        before = _without(lines, 0, start, others) + "\n" if start else ""
        after = _without(lines, end, len(lines), others)
        open_holes.remove(number)
        yield Passage(source.path, source.language, before + typed[:indent], typed[indent:], "\n" + after)


def _without(lines: Sequence[str], start: int, end: int, holes: Sequence[tuple[int, int]]) -> str:
    kept = (line for number, line in enumerate(lines[start:end], start) if not any(low <= number < high for low, high in holes))
    return "\n".join(kept)


def _holes(lines: Sequence[str], places: Sequence[tuple[int, int]], rng: random.Random) -> list[tuple[int, int]]:
    """Runs of lines that do not touch, each with enough to type and neither first nor last line blank."""
    holes: list[tuple[int, int]] = []
    for _ in range(PASSAGES_PER_FILE * 4):
        low, high = rng.choice(places) if places else (0, len(lines) - 1)
        start = rng.randrange(low, max(low + 1, high - MIN_LINES + 1))
        start, end = _trimmed(lines, start, min(high, start + rng.randint(MIN_LINES, MAX_LINES)))
        apart = all(end < other_start or start > other_end for other_start, other_end in holes)
        if apart and len("".join(lines[start:end]).strip()) >= MIN_TYPED_CHARACTERS:
            holes.append((start, end))
        if len(holes) == PASSAGES_PER_FILE:
            break
    return holes


def _trimmed(lines: Sequence[str], start: int, end: int) -> tuple[int, int]:
    while start < end and not lines[start].strip():
        start += 1
    while start < end and not lines[end - 1].strip():
        end -= 1
    return start, end
