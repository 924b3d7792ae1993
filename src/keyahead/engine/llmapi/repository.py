"""The Triton repository of the LLM API: our own model, with all that it needs of keyahead beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import keyahead
from keyahead.engine.contract import MODEL_NAME
from keyahead.engine.llmapi import ARGUMENTS
from keyahead.engine.repository import config

_NEEDED = (
    "__init__.py",
    *(f"engine/{name}.py" for name in ("__init__", "contract", "exchange")),
    *(f"engine/llmapi/{name}.py" for name in ("__init__", "answers", "loop", "runtime", "sampling", "triton_model")),
)
"""Files of keyahead that run in NVIDIA's container, whose Python has none of it."""
_MODEL_PY = '''"""Written by keyahead.engine.llmapi.repository: finds its part of keyahead beside itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from keyahead.engine.llmapi.triton_model import TritonPythonModel  # noqa: E402, F401
'''


def write_llm(folder: Path, written: Mapping[str, object]) -> Path:
    """Write the repository, made anew, and return it; `written` is what `ARGUMENTS` has to hold."""
    shutil.rmtree(folder, ignore_errors=True)
    version = folder / MODEL_NAME / "1"
    source = Path(keyahead.__file__).parent
    for name in _NEEDED:
        target = version / "keyahead" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
    (version / "model.py").write_text(_MODEL_PY)
    (version / ARGUMENTS).write_text(json.dumps(written, indent=2) + "\n")
    (folder / MODEL_NAME / "config.pbtxt").write_text(config("python", 1, {}, ragged=False))
    return folder
