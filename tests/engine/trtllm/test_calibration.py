"""The calibration set: local code, always the same, in the form that quantize.py reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyahead.engine.store import SetupError
from keyahead.engine.trtllm import calibration


def test_the_standard_library_gives_a_set(tmp_path: Path) -> None:
    """512 samples of code, one JSON object a line with the column `text`, equal whenever it is made."""
    for name in ("a", "b"):
        calibration.write(tmp_path / name, None)
    lines = (tmp_path / "a" / "train.jsonl").read_text().splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {("text",)}
    assert {len(json.loads(line)["text"]) for line in lines} == {calibration.SAMPLE_CHARS}
    assert len(set(lines)) == calibration.SAMPLES
    assert (tmp_path / "a" / "train.jsonl").read_bytes() == (tmp_path / "b" / "train.jsonl").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["train.jsonl"]


def test_too_little_code_is_refused(tmp_path: Path) -> None:
    """A small folder is told how much it has and how much is needed; nothing half made is left."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one.py").write_text("".join(f"x{i} = {i}\n" for i in range(1000)))
    (source / "prose.txt").write_text("word " * 2000)
    with pytest.raises(SetupError, match=r"makes 5 samples .* needs 512"):
        calibration.write(tmp_path / "set", source)
    assert not (tmp_path / "set").exists()
