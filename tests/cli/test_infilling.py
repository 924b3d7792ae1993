"""Reading tasks and scoring answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.cli.infilling import Score, Task, TaskError, is_exact, load, percentile, sample, summarize, useful_characters
from keyahead.cli.sandbox import Verdict

FIELDS = {
    "task_id": "SingleLineInfilling/X/0/L0",
    "entry_point": "f",
    "prompt": "def f(x):\n",
    "suffix": "    return y\n",
    "canonical_solution": "    y = x\n",
    "test": "def check(c):\n    assert c(1) == 1\n",
}
TASK = Task(**FIELDS)


def score(exact: bool = False, useful: int = 0, verdict: Verdict = Verdict.FAILED, latency_ms: float = 1.0) -> Score:
    """A score of which a test sets what it is about."""
    return Score("K", exact, useful, verdict, latency_ms, "engine")


def test_tasks_are_read_in_order(tmp_path: Path) -> None:
    """Fields keep their text, more fields are allowed, empty lines are passed over."""
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({**FIELDS, "more": 1}) + "\n\n" + json.dumps({**FIELDS, "task_id": "MultiLineInfilling/é"}) + "\n")
    first, second = load(path)
    assert (first, first.kind, first.single_line) == (TASK, "SingleLineInfilling", True)
    assert (second.kind, second.single_line) == ("MultiLineInfilling", False)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{", "line 2: not JSON in UTF-8"),
        (b'"\xff"', "line 2: not JSON in UTF-8"),
        (b"[" * 100_000, "line 2: not JSON in UTF-8"),
        (b"[]", "line 2: not a JSON object"),
        (json.dumps({k: v for k, v in FIELDS.items() if k != "suffix"}).encode(), "line 2: field 'suffix' is missing"),
        (json.dumps({**FIELDS, "prompt": 1}).encode(), "line 2: field 'prompt' is not a string"),
        (json.dumps({**FIELDS, "test": "\ud800"}).encode(), "line 2: field 'test' is not a string of Unicode text"),
        (json.dumps({**FIELDS, "entry_point": "f()"}).encode(), "line 2: field 'entry_point' is not a name"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, line: bytes, sentence: str) -> None:
    """The error gives file, line and field, and does not quote the text."""
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(json.dumps(FIELDS).encode() + b"\n" + line)
    with pytest.raises(TaskError, match=sentence) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "def f" not in str(caught.value)


def test_no_tasks_is_an_error(tmp_path: Path) -> None:
    """Neither a missing nor an empty file is an evaluation of nothing."""
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(TaskError, match="has no tasks"):
        load(tmp_path / "empty")
    with pytest.raises(TaskError, match="cannot be read"):
        load(tmp_path / "missing")


@given(st.integers(1, 30), st.integers(1, 40), st.integers())
def test_a_sample_is_drawn_once_and_in_order(count: int, limit: int, seed: int) -> None:
    """A sample has no repeats, keeps the file's order, and is the same for the same seed."""
    tasks = [Task(**{**FIELDS, "task_id": f"{number:02}"}) for number in range(count)]
    drawn = sample(tasks, limit, seed)
    names = [task.task_id for task in drawn]
    assert names == sorted(set(names))
    assert len(drawn) == min(limit, count)
    assert drawn == sample(tasks, limit, seed)


def test_without_a_limit_all_tasks_are_taken() -> None:
    """No limit means every task."""
    assert sample([TASK, TASK], None, 0) == [TASK, TASK]


@pytest.mark.parametrize(
    ("completion", "exact", "useful"),
    [
        ("    y = x\n", True, 5),
        ("    y = x", True, 5),
        ("    y = x  \n\n", True, 5),
        ("y = x", False, 0),
        ("  y = x", False, 0),
        ("    y = x + 1", False, 5),
        ("    y = 1", False, 3),
        ("    z", False, 0),
        ("", False, 0),
    ],
)
def test_equality_and_useful_characters(completion: str, exact: bool, useful: int) -> None:
    """White space at the end does not count, indentation does; useful is what a person would not have to delete."""
    assert (is_exact(TASK, completion), useful_characters(TASK, completion)) == (exact, useful)


@pytest.mark.parametrize("completion", ["    y = x", "    y = x\n"])
def test_the_program_is_whole_lines_again(completion: str) -> None:
    """The line end of a hole of whole lines is put back if the answer has none."""
    assert TASK.program(completion).startswith("def f(x):\n    y = x\n    return y\n")
    exec(TASK.program(completion), {})


def test_a_hole_within_a_line_gets_no_line_end() -> None:
    """A random span stays in its line."""
    task = Task("RandomSpanInfilling/X/0/1", "f", "def f(x):\n    return x", ".y\n", " +", "def check(c): ...")
    assert task.program(" or x").startswith("def f(x):\n    return x or x.y\n")


def test_a_summary_is_shares_and_counts() -> None:
    """Each figure over a small set that can be counted by hand."""
    scores = [score(True, 4, Verdict.PASSED, 10.0), score(False, 2, Verdict.PASSED, 30.0), score(False, 0, Verdict.TIMEOUT, 20.0), score()]
    assert summarize(scores) == {
        "tasks": 4,
        "exact_match": 0.25,
        "exact_match_count": 1,
        "pass_at_1": 0.5,
        "pass_at_1_count": 2,
        "useful_characters": 1.5,
        "latency_ms": {"p50": 10.0, "p99": 30.0},
        "verdicts": {"passed": 2, "timeout": 1, "failed": 1},
        "sources": {"engine": 4},
    }


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_smallest_value_that_covers_the_share(values: list[float], share: float) -> None:
    """At least the share of the values is not above it, and of fewer values that is not so."""
    ascending = sorted(values)
    value = percentile(ascending, share)
    assert sum(each <= value for each in ascending) >= math.ceil(share * len(values))
    assert sum(each < value for each in ascending) < math.ceil(share * len(values))
