"""The stand-in for TensorRT-LLM, and a loop over a model of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyahead.engine.llmapi.loop import LlmLoop
from keyahead.engine.llmapi.sampling import Limits

CONTAINER = Path(__file__).with_name("container")
"""What NVIDIA's container has and this machine has not."""
ARGUMENTS: dict[str, Any] = {
    "model": "/engine",
    "backend": "pytorch",
    "skip_tokenizer_init": True,
    "max_batch_size": 4,
    "max_num_tokens": 512,
    "max_seq_len": 1024,
    "enable_chunked_prefill": True,
    "disable_overlap_scheduler": True,
    "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.9},
    "speculative_config": {"max_draft_len": 8, "is_public_pool": False},
}
LIMITS = Limits(vocab_size=500, max_seq_len=1024, max_requests=6)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`keyahead.engine.llmapi.runtime`, on the stand-in."""
    monkeypatch.syspath_prepend(str(CONTAINER))
    before = set(sys.modules)
    from keyahead.engine.llmapi import runtime  # noqa: PLC0415  # needs the stand-in

    yield runtime
    for name in set(sys.modules) - before:
        if name.startswith(("tensorrt_llm", "torch", "keyahead.engine.llmapi.runtime")):
            del sys.modules[name]


@pytest.fixture
def crashes() -> list[str]:
    """Grows when the engine has crashed."""
    return []


@pytest.fixture
def loop(runtime: Any, crashes: list[str]) -> Iterator[LlmLoop]:
    """Serves with the stand-in; at most four requests at work and two waiting."""
    serving = LlmLoop(runtime.Llm(ARGUMENTS), LIMITS, runtime.Crash, lambda: crashes.append("crash"))
    yield serving
    serving.close()
