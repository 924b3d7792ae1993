"""A second GPU engine: TensorRT-LLM's LLM API on PyTorch, behind the same contract (docs/adr/0015)."""

ARGUMENTS = "llm.json"
"""Beside the model's `model.py`: `llm`, the arguments of `tensorrt_llm.LLM`; `vocab_size`; `max_waiting`, how many requests may wait."""
