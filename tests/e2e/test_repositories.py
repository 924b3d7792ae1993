"""Real Triton reads the GPU repository, as far as a machine without the backend can."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from keyahead.engine.contract import MODEL_NAME
from keyahead.engine.store import SilentProgress
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from keyahead.engine.trtllm.repository import write_engine
from keyahead.stack import libpython, triton
from tests.e2e.conftest import free_ports

NO_BACKEND = "unable to find backend library for backend 'tensorrtllm'"


def triton_says(repository: Path) -> str:
    """What the server prints before it gives up on a repository that it cannot load."""
    progress = SilentProgress()
    server = triton.install(progress, offline=False)
    ports = triton.Ports(*free_ports(2))
    environment = {**os.environ, **triton.environment(server, libpython.install(progress, offline=False))}
    command = triton.command(server, repository, ports, "keyahead-test")
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    assert run.returncode != 0
    return run.stdout


def repository(folder: Path) -> Path:
    """The GPU repository of an ordinary plan."""
    return write_engine(folder / "gpu", Plan.make("qwen2.5-coder-1.5b", "l4", Precision.FP8))


def test_triton_accepts_the_gpu_configuration_and_lacks_only_the_backend(tmp_path: Path) -> None:
    """Every tensor and parameter parses and validates; what is missing here is TensorRT-LLM itself."""
    assert NO_BACKEND in triton_says(repository(tmp_path))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("TYPE_UINT64", "TYPE_UINT46"),
        ("dims: [ 2, -1 ]", "dims: [ 2, -7 ]"),
        ("reshape: { shape: [ ] }", "reshape: { shape: [ 2 ] }"),
        ("preferred_batch_size: [ 32 ]", "preferred_batch_size: [ 64 ]"),
        ("kind: KIND_CPU", "kind: KIND_NPU"),
        ('string_value: "/engine"', "string_value: ${engine_dir}"),
    ],
)
def test_a_planted_mistake_is_caught(tmp_path: Path, right: str, wrong: str) -> None:
    """A configuration that does not make sense is told apart from a missing backend."""
    folder = repository(tmp_path)
    config = folder / MODEL_NAME / "config.pbtxt"
    assert right in config.read_text()
    config.write_text(config.read_text().replace(right, wrong))
    said = triton_says(folder)
    assert NO_BACKEND not in said
    assert "config" in said
