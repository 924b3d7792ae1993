"""The Triton repository of a plan: a TensorRT-LLM engine's, or the LLM API's."""

from __future__ import annotations

import shutil
from pathlib import Path

from keyahead.engine.contract import MODEL_NAME
from keyahead.engine.llmapi.repository import write_llm
from keyahead.engine.repository import config
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.proposal import Runtime

SERVED_ENGINE_DIR = "/engine"
"""Where the serving container sees the engine, or the LLM API's checkpoint."""
MAX_QUEUE_SIZE = 64
"""Requests that wait in Triton, and again as many in the executor; admission belongs to the service."""


def write_repository(folder: Path, plan: Plan, served: str = SERVED_ENGINE_DIR) -> Path:
    """Write the repository, made anew, and return it; the server sees the plan's results in the folder `served`."""
    if plan.proposal.runtime is Runtime.TENSORRT:
        return write_engine(folder, plan, served)
    vocab_size = plan.proposal.network.vocab_size
    return write_llm(folder, {"llm": plan.llm_arguments(served), "vocab_size": vocab_size, "max_waiting": MAX_QUEUE_SIZE})


def engine_config(plan: Plan, engine: str = SERVED_ENGINE_DIR) -> str:
    """`config.pbtxt` of the engine, which the server sees in the folder `engine`.

    KIND_CPU, because the backend places its work on the GPU by itself. No queue delay: requests are batched in flight. Inputs are ragged,
    since prompts of one batch differ in length.
    """
    batch = plan.proposal.number("max_batch_size")
    policy = f"default_queue_policy {{ max_queue_size: {MAX_QUEUE_SIZE} }}"
    batching = f"dynamic_batching {{ preferred_batch_size: [ {batch} ] max_queue_delay_microseconds: 0 {policy} }}"
    parameters = {**plan.proposal.serving, "gpt_model_path": engine}
    return config("tensorrtllm", batch, parameters, ragged=True, batching=batching)


def write_engine(folder: Path, plan: Plan, engine: str = SERVED_ENGINE_DIR) -> Path:
    """Write the repository, made anew, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / MODEL_NAME / "1").mkdir(parents=True)
    (folder / MODEL_NAME / "config.pbtxt").write_text(engine_config(plan, engine))
    return folder
