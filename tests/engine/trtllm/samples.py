"""A small checkpoint, and what a probe finds in the pinned container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keyahead.engine.contract import INPUTS, OUTPUTS, Tensor
from keyahead.engine.llmapi.sampling import SETTINGS
from keyahead.engine.trtllm import flags, image, networks
from keyahead.engine.trtllm.gpus import Gpu

NETWORK = networks.get("qwen2.5-coder-1.5b")


def checkpoint(folder: Path, **changes: object) -> Path:
    """A folder like that of Qwen2.5-Coder-1.5B, without its weights."""
    folder.mkdir()
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    markers = [{"id": 3, "content": "<|endoftext|>"}]
    published = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}, "added_tokens": markers}
    (folder / "tokenizer.json").write_text(json.dumps(published))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def code(folder: Path) -> Path:
    """Just enough of it to calibrate with."""
    folder.mkdir()
    (folder / "code.py").write_text("".join(f"x{i} = {i}\n" for i in range(100_000)))
    return folder


def template() -> str:
    """A config.pbtxt written as NVIDIA writes theirs: other order, comments, blanks to fill, and tensors that we do not use."""

    def one(tensor: Tensor) -> str:
        extras = "\n    reshape: { shape: [ ] }" * tensor.scalar + "\n    optional: true" * tensor.optional
        dims = ", ".join(map(str, tensor.dims))
        return f'  {{\n    name: "{tensor.name}"\n    data_type: TYPE_{tensor.datatype}\n    dims: [ {dims} ]{extras}\n  }}'

    other = '  # not ours\n  {\n    name: "draft_logits"\n    data_type: ${logits_datatype}\n    dims: [ -1, -1 ]\n    optional: true\n  }'
    parameters = [
        f'parameters: {{\n  key: "{key}"\n  value: {{\n    string_value: "${{{key}}}"\n  }}\n}}' for key in sorted(flags.PARAMETERS)
    ]
    inputs = ",\n".join([*map(one, reversed(INPUTS)), other])
    outputs = ",\n".join([*map(one, OUTPUTS), other])
    return f'name: "tensorrt_llm"\ninput [\n{inputs}\n]\noutput [\n{outputs}\n]\ninstance_group [ {{ count: 1 }} ]\n' + "\n".join(
        parameters
    )


def facts(card: Gpu, product: str, **changes: Any) -> dict[str, Any]:
    """What the probe finds in the pinned container on a GPU."""
    options = " ".join(f"[--{name} X]" for name in sorted(flags.OPTIONS))
    names = {
        "TorchLlmArgs": [
            *("model", "backend", "skip_tokenizer_init", "max_batch_size", "max_num_tokens", "max_seq_len", "enable_chunked_prefill"),
            *("disable_overlap_scheduler", "kv_cache_config", "speculative_config", "tensor_parallel_size"),
        ],
        "SamplingParams": [*SETTINGS, "n", "best_of"],
        "KvCacheConfig": ["enable_block_reuse", "free_gpu_memory_fraction", "host_cache_size", "dtype"],
        "NGramDecodingConfig": ["max_draft_len", "max_matching_ngram_size", "is_keep_all", "is_use_oldest", "is_public_pool"],
        "generate_async": ["inputs", "sampling_params", "streaming", "cache_salt", "lora_request"],
    }
    quantize = "--model_dir --output_dir --dtype {auto,float16,bfloat16} --qformat {fp8,int8_sq,int4_awq} --calib_dataset --calib_size"
    return {
        "gpu": {"name": product, "compute_cap": card.compute_capability, "driver_version": "590.48.01", "memory.total": "23034 MiB"},
        "triton_release": image.Image().release,
        "tensorrt_llm": image.TRTLLM_VERSION,
        "tensorrt": image.TENSORRT_VERSION,
        "help": {
            "trtllm-build": f"usage: trtllm-build {options} {{draft_tokens_external,medusa}}",
            "quantize.py": f"{quantize} --awq_block_size --export_format {{tensorrt_llm,hf}}",
            "convert_checkpoint.py": "--model_dir --output_dir --dtype {auto,float16,bfloat16,float32}",
        },
        "llm_api": names,
        "config": template(),
        **changes,
    }
