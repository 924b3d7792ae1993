"""Nothing of the engine calls home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_importing_the_engine_reports_nothing(tmp_path: Path) -> None:
    """OpenVINO's telemetry, which keeps its identity below ~/intel, is never loaded."""
    code = "import keyahead.engine.cpu.runner, sys; assert sys.modules['openvino_telemetry'] is None"
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert not list(tmp_path.iterdir())
