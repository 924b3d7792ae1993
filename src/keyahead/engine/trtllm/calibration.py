"""A calibration set of local code, in the form that quantize.py reads.

quantize.py opens a folder with Hugging Face's `datasets` and takes the column `text` of the split `train` (TensorRT-LLM
tensorrt_llm/quantization/quantize_by_modelopt.py, get_calib_dataloader). A file train.jsonl is just that. Its default would be a news
corpus from the network: other text than the engine will see, and a call nobody asked for.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from pathlib import Path

from keyahead.engine.store import SetupError, atomic_folder

SAMPLES = 512
SAMPLE_CHARS = 2048
"""More than the 512 tokens that quantize.py reads of each; a token of code is some 3.5 characters."""
_SUFFIXES = (".py", ".ts", ".tsx", ".js", ".go", ".rs", ".java", ".kt", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".rb", ".php", ".swift")
_INSTALLED = {"site-packages", "dist-packages"}
"""Folders of the standard library that hold other people's packages."""


def write(target: Path, source: Path | None) -> None:
    """Make the folder `target` with samples of the code below `source`, by default this Python's standard library.

    The same files give the same set. Raises SetupError if there is too little code.
    """
    root = source or Path(sysconfig.get_path("stdlib"))
    # In an order that spreads them over all files, and that does not depend on the folder's.
    samples = sorted(_samples(root), key=lambda text: hashlib.sha256(text.encode()).digest())[:SAMPLES]
    if len(samples) < SAMPLES:
        raise SetupError(
            f"The code in {root} makes {len(samples)} samples of {SAMPLE_CHARS} characters, and calibration needs {SAMPLES}: "
            "name a folder with more code, or leave it out to take Python's standard library."
        )
    with atomic_folder(target) as folder:
        lines = (json.dumps({"text": sample}) + "\n" for sample in samples)
        (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")


def _samples(root: Path) -> set[str]:
    samples: set[str] = set()
    for path in root.rglob("*"):
        if path.suffix in _SUFFIXES and path.is_file() and not _INSTALLED & set(path.relative_to(root).parts):
            text = path.read_text(encoding="utf-8", errors="ignore")
            samples.update(text[start : start + SAMPLE_CHARS] for start in range(0, len(text) - SAMPLE_CHARS + 1, SAMPLE_CHARS))
    return samples
