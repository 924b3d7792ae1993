"""What a container and its GPU are: run by the container's own Python, with nothing but the standard library.

Prints one JSON object as its last line. Whatever cannot be found out is null, so that the reader can say what is missing. With --brief only
GPU and versions are looked at, which takes seconds: nothing is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

QUERY = ("name", "compute_cap", "driver_version", "memory.total")
HELP = {
    "trtllm-build": ("trtllm-build", "--help"),
    "quantize.py": ("python3", "/app/examples/quantization/quantize.py", "--help"),
    "convert_checkpoint.py": ("python3", "/app/examples/models/core/qwen/convert_checkpoint.py", "--help"),
}
NAMES = """
import inspect, json
from tensorrt_llm import LLM, SamplingParams
from tensorrt_llm.executor import CppExecutorError
from tensorrt_llm.llmapi import KvCacheConfig, NGramDecodingConfig
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

fields = {
    each.__name__: sorted(getattr(each, "model_fields", None) or each.__dataclass_fields__)
    for each in (TorchLlmArgs, SamplingParams, KvCacheConfig, NGramDecodingConfig)
}
print(json.dumps({**fields, "generate_async": sorted(inspect.signature(LLM.generate_async).parameters)}))
"""
"""Prints what the LLM API's configurations and calls take, as the last line."""
CONFIG = "/app/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt"
HELP_TIMEOUT_S = 300
"""Importing TensorRT-LLM takes most of a minute on a cold disk."""


def said(command: tuple[str, ...], timeout: float) -> str | None:
    """A program's output, or None if it fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout


def version(package: str) -> str | None:
    """An installed package's version, without importing it: TensorRT-LLM loads CUDA."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def names() -> dict[str, list[str]] | None:
    """What the LLM API takes, by class or function."""
    lines = (said(("python3", "-c", NAMES), HELP_TIMEOUT_S) or "").splitlines()
    try:
        found: dict[str, list[str]] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return None
    return found


def gpu() -> dict[str, str] | None:
    """The first GPU that the container sees."""
    lines = said(("nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"), 60)
    return dict(zip(QUERY, (value.strip() for value in lines.splitlines()[0].split(",")), strict=True)) if lines else None


def main() -> None:
    """Print everything, or, with --brief, what an engine is tied to."""
    brief, config = "--brief" in sys.argv, Path(CONFIG)
    facts = {
        "gpu": gpu(),
        "triton_release": os.environ.get("NVIDIA_TRITON_SERVER_VERSION"),
        "tensorrt_llm": version("tensorrt_llm"),
        "tensorrt": version("tensorrt"),
        "help": {name: None if brief else said(command, HELP_TIMEOUT_S) for name, command in HELP.items()},
        "llm_api": None if brief else names(),
        "config": config.read_text(encoding="utf-8") if config.exists() else None,
    }
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main()
