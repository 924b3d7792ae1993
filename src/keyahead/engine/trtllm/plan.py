"""The plan of one engine: everything that will be run, what it is expected to need, and how it will be served."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from keyahead.engine.adapters import MODULES
from keyahead.engine.contract import MAX_DRAFTS
from keyahead.engine.trtllm import flags, gpus, llm_api, networks, roofline
from keyahead.engine.trtllm.image import Image
from keyahead.engine.trtllm.lora_rules import LORA_MEMORY_RULES, LORA_RULES
from keyahead.engine.trtllm.precision import KvCache, Precision
from keyahead.engine.trtllm.proposal import Limits, Lora, Proposal, Runtime
from keyahead.engine.trtllm.rules import BUILD_RULES
from keyahead.engine.trtllm.serving_rules import MEMORY_RULES, SERVING_RULES
from keyahead.engine.trtllm.verdicts import Rule, apply

MODEL_DIR, CALIBRATION_DIR, WORK_DIR = "/checkpoint", "/calibration", "/made"
"""Where the container sees the Hugging Face checkpoint, the calibration set and the results."""
CHECKPOINT_DIR, ENGINE_DIR = f"{WORK_DIR}/checkpoint", f"{WORK_DIR}/engine"
CONVERT = "/app/examples/models/core/qwen/convert_checkpoint.py"
QUANTIZE = "/app/examples/quantization/quantize.py"
CALIBRATION_SAMPLES = 512
AWQ_SAMPLES = 32
"""quantize.py takes no more for AWQ."""

_QFORMATS = {Precision.FP8: "fp8", Precision.INT8_SQ: "int8_sq", Precision.INT4_AWQ: "int4_awq"}


@dataclass(frozen=True, slots=True)
class Plan:
    """A proposal that all rules have passed."""

    proposal: Proposal
    notes: tuple[str, ...]
    """What rules corrected, and why."""
    image: Image = field(default_factory=Image)

    @classmethod
    def make(
        cls,
        model: str,
        gpu: str,
        precision: Precision,
        limits: Limits | None = None,
        *,
        kv_cache: KvCache = KvCache.MODEL,
        licence_accepted: bool = False,
        lora: Lora | None = None,
        build: Mapping[str, str] | None = None,
        serving: Mapping[str, str] | None = None,
        image: Image | None = None,
        runtime: Runtime = Runtime.TENSORRT,
    ) -> Plan:
        """The plan for a model of the catalogue on a GPU.

        Args:
            model: name of the model.
            gpu: l4, a10, a100 or h100.
            precision: of the weights.
            limits: what the engine must be able to do at once.
            kv_cache: format of keys and values.
            licence_accepted: the operator's word that a licence other than Apache-2.0 allows the use.
            lora: the adapters that it must take, if any.
            build: options of `trtllm-build` that replace ours.
            serving: parameters of the backend that replace ours.
            image: the container, unless it is the pinned one.
            runtime: what computes; `build` and `serving` are for TensorRT.

        Raises PlanRefused with the reason and source of every rule that refuses, and SetupError for a name that is not known.

        """
        chosen = limits or Limits(max_drafts=runtime.default_drafts)
        rules: tuple[Rule, ...]
        if runtime is Runtime.TENSORRT:
            rules = (*BUILD_RULES, *LORA_RULES, *SERVING_RULES)
            options, parameters = flags.build_options(**dataclasses.asdict(chosen)), flags.SERVING
        else:
            rules, options, parameters = llm_api.RULES, llm_api.options(chosen), llm_api.SERVING
        options = {**options, **_lora_build(lora), **(build or {})}
        parameters = {**parameters, **(flags.lora_serving(lora.rank) if lora else {}), **(serving or {})}
        judged = networks.get(model), gpus.get(gpu), precision, chosen, kv_cache, licence_accepted
        proposal, notes = apply(rules, Proposal(*judged, options, parameters, runtime))
        proposal, _ = apply((*LORA_MEMORY_RULES, *MEMORY_RULES), proposal)
        return cls(proposal, notes, image or Image())

    @property
    def checkpoint_command(self) -> tuple[str, ...]:
        """From the Hugging Face checkpoint to TensorRT-LLM's, quantized if need be.

        INT8 SmoothQuant goes through quantize.py, because convert_checkpoint.py --smoothquant reads no local calibration set: it loads one
        by name, and of an unknown name neither split nor column (TensorRT-LLM tensorrt_llm/models/convert_utils.py, load_calib_dataset).
        The LLM API reads Hugging Face's format, quantized or as it is.
        """
        precision = self.proposal.precision
        common = ["--model_dir", MODEL_DIR, "--output_dir", CHECKPOINT_DIR, "--dtype", self.proposal.dtype]
        if not precision.needs_calibration:
            return ("python3", CONVERT, *common) if self._has_engine else ("cp", "-RL", f"{MODEL_DIR}/.", CHECKPOINT_DIR)
        samples = AWQ_SAMPLES if precision is Precision.INT4_AWQ else CALIBRATION_SAMPLES
        quantize = ["--qformat", _QFORMATS[precision], "--calib_dataset", CALIBRATION_DIR, "--calib_size", str(samples)]
        if precision is Precision.INT4_AWQ:
            quantize += ["--awq_block_size", "128"]
        if not self._has_engine:
            quantize += ["--export_format", "hf"]
        return ("python3", QUANTIZE, *common, *quantize)

    @property
    def build_command(self) -> tuple[str, ...]:
        """From the checkpoint to the engine; empty for the LLM API, which has none."""
        if not self._has_engine:
            return ()
        command = ["trtllm-build", "--checkpoint_dir", CHECKPOINT_DIR, "--output_dir", ENGINE_DIR]
        for name, value in self.proposal.build.items():
            command += [f"--{name}", *value.split()]
        return tuple(command)

    def llm_arguments(self, model: str) -> dict[str, object]:
        """Those of the LLM API, which sees the checkpoint in the folder `model`; empty for an engine."""
        return {} if self._has_engine else llm_api.arguments(self.proposal, model)

    @property
    def served(self) -> str:
        """The folder, of those with results, that the server loads."""
        return "engine" if self._has_engine else "checkpoint"

    @property
    def service_drafts(self) -> int:
        """What the service has to be told to send at most."""
        return min(self.proposal.drafts, MAX_DRAFTS) if self._has_engine else 0

    @property
    def _has_engine(self) -> bool:
        return self.proposal.runtime is Runtime.TENSORRT

    @property
    def latency(self) -> roofline.Latency:
        """Expected times of one request."""
        return roofline.latency(self.proposal.network, self.proposal.gpu, self.proposal.precision)

    @property
    def memory(self) -> roofline.Memory:
        """Expected use of the GPU's memory."""
        return self.proposal.memory

    @property
    def name(self) -> str:
        """Of the folder with its results: legible, and different for every plan that gives another engine."""
        commands = json.dumps([self.checkpoint_command, self.build_command, self.image.reference])
        digest = hashlib.sha256(commands.encode()).hexdigest()[:8]
        return f"{self.proposal.network.name}-{self.proposal.gpu.name}-{self.proposal.precision}-{digest}"

    def to_json(self) -> dict[str, object]:
        """What a program, or a manifest, has to know of it."""
        latency, memory = self.latency, self.memory
        return {
            "name": self.name,
            "runtime": self.proposal.runtime.value,
            "model": self.proposal.network.name,
            "gpu": self.proposal.gpu.name,
            "precision": self.proposal.precision.value,
            "kv_cache": self.proposal.kv_cache.value,
            "limits": dataclasses.asdict(self.proposal.limits),
            "max_seq_len": self.proposal.max_seq_len,
            "service_max_drafts": self.service_drafts,
            "image": self.image.reference,
            "checkpoint_command": list(self.checkpoint_command),
            "build_command": list(self.build_command),
            "serving": dict(self.proposal.serving),
            "llm": self.llm_arguments(CHECKPOINT_DIR),
            "notes": list(self.notes),
            "expected": {
                "weights_bytes": round(memory.weights),
                "activations_bytes": round(memory.activations),
                "adapter_cache_bytes": round(memory.adapters),
                "adapter_bytes": self.proposal.adapter_bytes,
                "kv_bytes_per_token": memory.kv_per_token,
                "kv_tokens": memory.kv_tokens,
                "prefill_ms": round(latency.prefill * 1e3, 1),
                "step_ms": round(latency.step * 1e3, 1),
                "verify_ms": round(latency.verify * 1e3, 1),
                "total_ms": round(latency.total * 1e3, 1),
                "total_roof_ms": round(latency.total_roof * 1e3, 1),
                "assumptions": list(roofline.ASSUMPTIONS),
            },
        }


def _lora_build(lora: Lora | None) -> dict[str, str]:
    """Modules in TensorRT-LLM's order and names; one that is not known keeps its name, for the rules to refuse."""
    if lora is None:
        return {}
    known = [module.name for name, module in MODULES.items() if name in lora.modules]
    return flags.lora_build_options(lora.rank, [*known, *(name for name in lora.modules if name not in MODULES)])
