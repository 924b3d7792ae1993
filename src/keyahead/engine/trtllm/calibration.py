"""A calibration set of local code, in the form that quantize.py reads.

quantize.py opens a folder with Hugging Face's `datasets` and takes the column `text` of the split `train` (TensorRT-LLM
tensorrt_llm/quantization/quantize_by_modelopt.py, get_calib_dataloader). A file train.jsonl is just that. Its default would be a news
corpus from the network: other text than the engine will see, and a call nobody asked for.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from keyahead.engine.store import SetupError, atomic_folder

SAMPLES = 512
SAMPLE_CHARS = 4096
"""More than the 512 tokens that quantize.py reads of each."""
_SUFFIXES = (".py", ".ts", ".tsx", ".js", ".go", ".rs", ".java", ".kt", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".rb", ".php", ".swift")
_RESERVED = ("cnn_dailymail", "scienceqa", "science_qa")
"""Names in a path that make quantize.py read it as another set."""


def write(target: Path, source: Path | None) -> int:
    """Make the folder `target` with samples of the code below `source`, by default this Python's standard library.

    The same files give the same set. Returns the number of samples; SetupError if there is too little code.
    """
    root = source or Path(sysconfig.get_path("stdlib"))
    if any(name in str(target).lower() for name in _RESERVED):
        raise SetupError(f"quantize.py would take {target} for a public data set: choose a folder without that name.")
    # Spread over the tree by a digest of the path, not by the alphabet.
    files = sorted(_code(root), key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
    samples = []
    for text in map(_read, files):
        if len(text) >= SAMPLE_CHARS:
            middle = (len(text) - SAMPLE_CHARS) // 2
            samples.append(text[middle : middle + SAMPLE_CHARS])
        if len(samples) == SAMPLES:
            break
    if len(samples) < SAMPLES:
        raise SetupError(
            f"{root} has only {len(samples)} code files of {SAMPLE_CHARS} characters, and calibration needs {SAMPLES}: "
            "name a folder with more code, or leave it out to take Python's standard library."
        )
    with atomic_folder(target) as folder:
        lines = (json.dumps({"text": sample}) + "\n" for sample in samples)
        (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(samples)


def _code(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.suffix in _SUFFIXES and path.is_file())


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")
