"""The Triton repository says exactly what the contract says."""

from __future__ import annotations

import re
from pathlib import Path

from keyahead.engine.contract import INPUTS, MODEL_NAME, OUTPUTS
from keyahead.engine.repository import write_cpu


def test_the_repository_declares_every_tensor_once(tmp_path: Path) -> None:
    """config.pbtxt names each input and output of the contract, and nothing else."""
    folder = write_cpu(tmp_path / "repository", tmp_path, kv_tokens=1024)
    config = (folder / MODEL_NAME / "config.pbtxt").read_text()
    assert re.findall(r'^    name: "(\w+)"', config, re.MULTILINE) == [tensor.name for tensor in (*INPUTS, *OUTPUTS)]
    assert config.count("optional: true") == sum(tensor.optional for tensor in INPUTS)
    assert 'key: "kv_tokens" value: { string_value: "1024" }' in config


def test_writing_again_replaces_the_old(tmp_path: Path) -> None:
    """A second start leaves nothing of the first behind."""
    folder = write_cpu(tmp_path / "repository", tmp_path)
    (folder / "leftover").touch()
    write_cpu(folder, tmp_path)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["config.pbtxt", "model.py"]
