"""Infilling tasks in the format of HumanEval-Infilling, and how an answer to one is scored.

Format and kinds: `openai/human-eval-infilling` (MIT): one JSON object a line, the kind is `task_id` up to the first slash.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from keyahead.cli.sandbox import Verdict

_SINGLE_LINE = "SingleLineInfilling"


class TaskError(Exception):
    """A task file that cannot be used; the text names the line, the field and the cure."""


@dataclass(frozen=True, slots=True)
class Task:
    """A hole in a program; the fields are those of the file."""

    task_id: str
    entry_point: str
    """The function that the test checks."""
    prompt: str
    """The program before the hole."""
    suffix: str
    """The program after it."""
    canonical_solution: str
    """What stood in it."""
    test: str
    """Source of `check(candidate)`."""

    @property
    def kind(self) -> str:
        """The benchmark the task belongs to."""
        return self.task_id.partition("/")[0]

    @property
    def single_line(self) -> bool:
        """Whether the hole is one line, and the rest of that line is to be completed."""
        return self.kind == _SINGLE_LINE

    def program(self, completion: str) -> str:
        """The whole program with its test. A hole of whole lines has a line end, which an editor's answer leaves out: it is put back."""
        if self.canonical_solution.endswith("\n") and not completion.endswith("\n"):
            completion += "\n"
        return f"{self.prompt}{completion}{self.suffix}\n{self.test}\ncheck({self.entry_point})\n"


@dataclass(frozen=True, slots=True)
class Score:
    """What became of one task."""

    kind: str
    exact: bool
    """The answer equals the canonical solution, both without the white space at their ends. Indentation at the beginning counts: with the
    wrong one it is another program."""
    useful_characters: int
    """Characters of the answer, white space at either end aside, before the first that differs from the canonical solution."""
    verdict: Verdict
    latency_ms: float
    """From sending the request to having the answer, at the client."""
    source: str
    """Where the service had the answer from; what a cache gave costs no decoding."""


def load(path: Path) -> list[Task]:
    """The tasks of a file, in its order; empty lines are passed over.

    Raises:
        TaskError: the file cannot be read, has no task, or a line is not a task.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TaskError(f"{path} cannot be read ({error.strerror}): name a file of infilling tasks.") from None
    tasks = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not tasks:
        raise TaskError(f"{path} has no tasks: give one JSON object a line.")
    return tasks


def _parse(line: bytes, where: str) -> Task:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):  # Not UTF-8, not JSON, or nested without end.
        raise TaskError(f"{where}: not JSON in UTF-8: give one JSON object a line.") from None
    if not isinstance(values, dict):
        raise TaskError(f"{where}: not a JSON object: give one with the fields {', '.join(each.name for each in fields(Task))}.")
    for name in (each.name for each in fields(Task)):
        if name not in values:
            raise TaskError(f"{where}: field '{name}' is missing: add it.")
        if not isinstance(values[name], str) or _is_broken(values[name]):
            raise TaskError(f"{where}: field '{name}' is not a string of Unicode text: make it one.")
    task = Task(**{each.name: values[each.name] for each in fields(Task)})
    if not task.entry_point.isidentifier():
        raise TaskError(f"{where}: field 'entry_point' is not a name: give the name of the function under test.")
    return task


def _is_broken(text: str) -> bool:
    """Whether the text has half a surrogate pair, which JSON can spell and UTF-8 cannot."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def sample(tasks: Sequence[Task], limit: int | None, seed: int) -> list[Task]:
    """At most `limit` tasks drawn at random, in the file's order; all of them without a limit."""
    if limit is None or limit >= len(tasks):
        return list(tasks)
    chosen = random.Random(seed).sample(range(len(tasks)), limit)  # noqa: S311 - a sample, not a secret
    return [tasks[index] for index in sorted(chosen)]


def is_exact(task: Task, completion: str) -> bool:
    """See `Score.exact`."""
    return completion.rstrip() == task.canonical_solution.rstrip()


def useful_characters(task: Task, completion: str) -> int:
    """See `Score.useful_characters`."""
    return len(os.path.commonprefix([completion, task.canonical_solution]).strip())  # noqa: RUF071 - of characters, as wanted


def summarize(scores: Sequence[Score]) -> dict[str, Any]:
    """The figures over some tasks, of which there must be at least one; latencies in milliseconds, percentiles by nearest rank."""
    count = len(scores)
    exact = sum(score.exact for score in scores)
    verdicts = Counter(score.verdict.value for score in scores)
    latencies = sorted(score.latency_ms for score in scores)
    return {
        "tasks": count,
        "exact_match": exact / count,
        "exact_match_count": exact,
        "pass_at_1": verdicts[Verdict.PASSED.value] / count,
        "pass_at_1_count": verdicts[Verdict.PASSED.value],
        "useful_characters": sum(score.useful_characters for score in scores) / count,
        "latency_ms": {"p50": percentile(latencies, 0.5), "p99": percentile(latencies, 0.99)},
        "verdicts": dict(verdicts),
        "sources": dict(Counter(score.source for score in scores)),
    }


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
