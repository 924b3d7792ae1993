"""What the container and the GPU are, as the probe found them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyahead.engine.store import SetupError
from keyahead.engine.trtllm import probe

PROBE = Path(probe.__file__)
PROBE_COMMAND = ("python3", "/probe.py")
BRIEF_COMMAND = (*PROBE_COMMAND, "--brief")
"""Finds out the origin alone."""
MOUNTS = {PROBE: "/probe.py:ro"}


@dataclass(frozen=True, slots=True)
class Origin:
    """What an engine is tied to: it runs on no other type of GPU and under no other version."""

    gpu: str
    compute_capability: str
    tensorrt_llm: str
    tensorrt: str

    def differences(self, other: Origin) -> list[str]:
        """What is different in the other, one clause each."""
        pairs = {
            "the GPU": (self.gpu, other.gpu),
            "its compute capability": (self.compute_capability, other.compute_capability),
            "TensorRT-LLM": (self.tensorrt_llm, other.tensorrt_llm),
            "TensorRT": (self.tensorrt, other.tensorrt),
        }
        return [f"{what} was {mine} and is {theirs}" for what, (mine, theirs) in pairs.items() if mine != theirs]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the probe prints; a text is empty if it could not be had."""

    origin: Origin
    driver: str
    triton_release: str
    help: Mapping[str, str]
    """What each program says to --help."""
    llm_api: Mapping[str, Sequence[str]]
    """What the LLM API's classes and functions take."""
    config: str
    """NVIDIA's own config.pbtxt, a template."""

    @classmethod
    def parse(cls, output: str) -> Facts:
        """From the probe's output; the container's greeting stands before it. Raises SetupError."""
        lines = [line for line in output.splitlines() if line.startswith("{")]
        try:
            raw: dict[str, Any] = json.loads(lines[-1])
            gpu = raw["gpu"] or dict.fromkeys(probe.QUERY, "")
            origin = Origin(gpu["name"], gpu["compute_cap"], raw["tensorrt_llm"] or "", raw["tensorrt"] or "")
            texts = {name: text or "" for name, text in raw["help"].items()}
            return cls(origin, gpu["driver_version"], raw["triton_release"] or "", texts, raw["llm_api"] or {}, raw["config"] or "")
        except (IndexError, KeyError, ValueError, TypeError) as error:
            raise SetupError(
                "The container's probe printed nothing that can be read: run the docker command of --dry-run by hand."
            ) from error
