"""The only file that touches TensorRT-LLM.

Written from the sources and documents of the LLM API of 1.2 (tensorrt_llm/llmapi/llm.py, llm_args.py) and never run with it: the package
cannot be had without NVIDIA's container. `tests/engine/llmapi/container` stands in for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensorrt_llm import LLM, SamplingParams
from tensorrt_llm.executor import CppExecutorError
from tensorrt_llm.llmapi import KvCacheConfig, NGramDecodingConfig

Crash: type[Exception] = CppExecutorError
"""The executor is lost, not one request; NVIDIA's own server ends itself, too (tensorrt_llm/serve/openai_server.py)."""


class Llm:
    """A loaded model."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Load it, which takes minutes; `arguments` are those of `LLM`, with its two configurations as mappings."""
        given = dict(arguments, kv_cache_config=KvCacheConfig(**arguments["kv_cache_config"]))
        if "speculative_config" in given:
            given["speculative_config"] = NGramDecodingConfig(**arguments["speculative_config"])
        self._llm = LLM(**given)

    def generate(self, ids: tuple[int, ...], settings: Mapping[str, Any], *, streaming: bool, salt: str | None) -> Any:
        """Begin to decode; must be called on the event loop that iterates over the result.

        KV is shared only between requests with the same `salt`. The result is a `RequestOutput`: an asynchronous iterator over itself
        with `outputs`, `finished` and `abort`. ValueError if the LLM API refuses the request.
        """
        fields = dict(settings)
        if fields["embedding_bias"] is not None:
            fields["embedding_bias"] = torch.tensor(fields["embedding_bias"], dtype=torch.float32)
        return self._llm.generate_async(list(ids), SamplingParams(**fields), streaming=streaming, cache_salt=salt)

    def close(self) -> None:
        """Unload."""
        self._llm.shutdown()
