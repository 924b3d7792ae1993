"""Which keys are hit, and when."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyahead.loadtest.plan import Plan, make_plan, pieces
from keyahead.loadtest.texts import Source, TextError, from_folder, passages
from tests.loadtest.conftest import source


def documents(plan: Plan, passage: int) -> list[str]:
    """What stands in the document after each key of a passage."""
    text = plan.passages[passage]
    return [text.before + text.typed[: key.position] + key.mistake + text.after for key in plan.keys if key.passage == passage]


def test_a_seed_gives_the_same_keys(sources: Sequence[Source]) -> None:
    """Two plans of a seed are equal; another seed or another typist has other keys."""
    one = make_plan(sources, 1, 0, 4, 60)
    assert one == make_plan(sources, 1, 0, 4, 60)
    assert one.keys != make_plan(sources, 2, 0, 4, 60).keys
    assert one.keys != make_plan(sources, 1, 1, 4, 60).keys


@given(st.integers(0, 10_000), st.integers(0, 3))
def test_each_key_is_one_edit(seed: int, typist: int) -> None:
    """Moments go up; a key inserts one piece or deletes one character; a passage is typed from nothing to its end without a gap."""
    plan = make_plan([source(f"{number}.py") for number in range(8)], seed, typist, 4, 120)
    assert all(one.at_s < other.at_s for one, other in pairwise(plan.keys))
    for one, other in pairwise(plan.keys):
        if one.passage != other.passage:
            assert (other.position, other.asks) == (0, False)
            assert one.position == len(plan.passages[one.passage].typed)
            continue
        before = plan.passages[one.passage].typed[: one.position] + one.mistake
        after = plan.passages[one.passage].typed[: other.position] + other.mistake
        deleted, inserted = before[len(after) :], after[len(before) :]
        assert before.startswith(after) or after.startswith(before)
        assert len(deleted) == 1 or len(inserted) == 1 or (inserted[0] == "\n" and not inserted.strip())
        assert other.asks


def test_no_two_typists_share_a_file(sources: Sequence[Source]) -> None:
    """Nobody types a file that another types, or that they have typed before."""
    plans = [make_plan(sources, 1, typist, 4, 60) for typist in range(4)]
    files = [{passage.path for passage in plan.passages} for plan in plans]
    assert len(set.union(*files)) == sum(map(len, files))
    for plan in plans:
        opened = [path for path, _ in groupby(passage.path for passage in plan.passages)]
        assert len(opened) == len(set(opened))


def test_texts_that_run_out_are_an_error(sources: Sequence[Source]) -> None:
    """Never silently the same file again; with repeats, the files begin anew."""
    with pytest.raises(TextError, match="give more files"):
        make_plan(sources[:1], 1, 0, 1, 3000)
    plan = make_plan(sources[:1], 1, 0, 1, 3000, repeat=True)
    assert plan.keys[-1].at_s > 2900
    with pytest.raises(TextError, match="give more files"):
        make_plan([], 1, 0, 1, 10, repeat=True)


@given(st.text("ab \n\t", max_size=60))
def test_pieces_are_the_text(text: str) -> None:
    """Pieces put together are the text; each is one character, or a line end with indentation."""
    parts = [text[start:end] for start, end in pieces(text)]
    assert "".join(parts) == text
    assert all(len(part) == 1 or (part[0] == "\n" and not part[1:].strip(" \t")) for part in parts)
    assert not any(one.startswith("\n") and other[0] in " \t" for one, other in pairwise(parts))


def test_plans_of_real_files_are_as_people_type() -> None:
    """Of the standard library: pauses, mistakes and jumps occur about as often as they should."""
    plan = make_plan(from_folder(), 3, 0, 1, 3600)
    gaps = [other.at_s - one.at_s for one, other in pairwise(plan.keys)]
    pauses = sum(gap >= 2 for gap in gaps) / len(gaps)
    assert 0.10 < pauses < 0.17
    assert 0.01 < sum(len(key.mistake) == 1 for key in plan.keys) / len(plan.keys) < 0.08
    assert sum(not key.asks for key in plan.keys) == len(plan.passages)


@given(st.integers(0, 1000))
def test_passages_are_holes_in_their_file(seed: int) -> None:
    """The last passage of a file, typed, gives the file; each starts on a line of its own, and the text after begins with a line end."""
    file = source(lines=80)
    parts = list(passages(file, random.Random(seed)))
    assert parts
    assert parts[-1].before + parts[-1].typed + parts[-1].after == file.text
    for part in parts:
        assert not part.before.rpartition("\n")[2].strip()
        assert part.after.startswith("\n")
        assert part.typed == part.typed.strip()
