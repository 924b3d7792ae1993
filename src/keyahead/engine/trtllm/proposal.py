"""What an operator asks for: model, GPU, precision and limits, with the options that follow from them. Rules judge it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass

from keyahead.engine.adapters import MODULES
from keyahead.engine.trtllm import flags, roofline
from keyahead.engine.trtllm.gpus import Gpu
from keyahead.engine.trtllm.networks import BYTES_16_BIT, Network
from keyahead.engine.trtllm.precision import KvCache, Precision


class Runtime(enum.StrEnum):
    """What computes in the container."""

    TENSORRT = "tensorrt"
    """An engine that `trtllm-build` makes, in the C++ backend; it verifies the service's drafts."""
    LLM_API = "llm-api"
    """PyTorch, by our own model over the LLM API; it drafts by itself (docs/adr/0015)."""

    @property
    def default_drafts(self) -> int:
        """The longest draft unless told otherwise: the service's, or a short one of the engine's own, which costs on every step."""
        return 24 if self is Runtime.TENSORRT else 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine must be able to do at once."""

    max_batch_size: int = 32
    """Requests in one step."""
    max_input: int = 4096
    """Tokens of a prompt."""
    max_output: int = 256
    """Tokens of an answer; the API's limit."""
    max_drafts: int = 24
    """The longest draft that the service sends, or that the LLM API makes of the request's own text; 0 for an engine without drafts."""
    max_num_tokens: int = flags.DEFAULT_NUM_TOKENS
    """Tokens of one step."""


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapters that the engine must take."""

    rank: int
    """The highest."""
    modules: tuple[str, ...] = tuple(MODULES)
    """All that any of them changes, by Hugging Face's names."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan before and while rules judge it."""

    network: Network
    gpu: Gpu
    precision: Precision
    limits: Limits
    kv_cache: KvCache
    licence_accepted: bool
    build: Mapping[str, str]
    """Options of `trtllm-build`, by name; one without a value has the empty text. The LLM API has some of the same name."""
    serving: Mapping[str, str]
    """Parameters of the backend."""
    runtime: Runtime = Runtime.TENSORRT

    def number(self, option: str) -> int:
        """A build option that counts something; 0 if it is not given or no whole number (which a rule refuses)."""
        text = self.build.get(option, "0")
        return int(text) if text.isdecimal() else 0

    @property
    def drafts(self) -> int:
        """The longest draft that the engine takes."""
        return self.number("max_draft_len")

    @property
    def max_seq_len(self) -> int:
        """The engine's limit of prompt, answer and drafts together: the builder adds the drafts to what it is told."""
        return self.number("max_seq_len") + (self.drafts if self.runtime is Runtime.TENSORRT else 0)

    @property
    def kv_limit(self) -> int | None:
        """Tokens that the KV cache holds at most, whatever memory there is; None without such a limit."""
        text = self.serving.get("max_tokens_in_paged_kv_cache", "")
        return int(text) if text.isdecimal() else None

    @property
    def has_adapters(self) -> bool:
        """Whether the engine takes LoRA adapters."""
        return self.build.get("lora_plugin", "disable") != "disable"

    @property
    def lora_modules(self) -> list[str]:
        """What adapters may change, by TensorRT-LLM's names."""
        return self.build.get("lora_target_modules", "").split()

    @property
    def adapter_bytes(self) -> int:
        """Of one adapter of the highest rank, in FP16."""
        modules = [name for name, module in MODULES.items() if module.name in self.lora_modules]
        values = sum(map(self.network.adapter_values, modules)) * self.network.num_hidden_layers
        return BYTES_16_BIT * values * self.number("max_lora_rank")

    @property
    def dtype(self) -> str:
        """Of what is not quantized; adapters come in FP16 and need it to be the same."""
        return "float16" if self.has_adapters else self.precision.dtype

    @property
    def memory(self) -> roofline.Memory:
        """What it will need on the GPU.

        Beside its logits, an engine for others' drafts has the draft's logits and both distributions, all of one shape (TensorRT-LLM
        cpp/tensorrt_llm/runtime/decoderState.cpp, reshapeSpeculativeDecodingBuffers).
        """
        tables = 4 if self.drafts and self.runtime is Runtime.TENSORRT else 1
        return roofline.memory(
            self.network,
            self.gpu,
            self.precision,
            step_tokens=self.number("max_num_tokens"),
            logit_rows=tables * self.number("max_batch_size") * (self.drafts + 1),
            kv_fraction=float(self.serving["kv_cache_free_gpu_mem_fraction"]),
            kv_limit=self.kv_limit,
            lora_fraction=float(self.serving["lora_cache_gpu_memory_fraction"]) if self.has_adapters else 0.0,
        )

    def with_build(self, **options: str) -> Proposal:
        """The same with some build options set."""
        return dataclasses.replace(self, build={**self.build, **options})

    def without_build(self, *names: str) -> Proposal:
        """The same without some build options."""
        return dataclasses.replace(self, build={name: value for name, value in self.build.items() if name not in names})

    def with_serving(self, **parameters: str) -> Proposal:
        """The same with some backend parameters set."""
        return dataclasses.replace(self, serving={**self.serving, **parameters})
