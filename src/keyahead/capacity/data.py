"""The figures that come with the model, and the engines made of them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from keyahead.capacity.steps import MeasuredSteps, RooflineSteps
from keyahead.capacity.workload import Engine, Workload
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision

CPU = "cpu"
CPU_MODEL = "qwen2.5-coder-0.5b"
"""The one whose steps were measured."""
CPU_CORES = 2
"""Of a replica of the CPU engine: those of the machine that was measured."""
_PRECISIONS = {"l4": Precision.FP8, "h100": Precision.FP8, "a10": Precision.INT8_SQ, "a100": Precision.INT8_SQ}
"""The 8-bit format that each GPU has."""
_CPU_PLACES, _CPU_CHUNK, _CPU_PATIENCE, _CPU_KV_TOKENS = 16, 64, 16, 16_384
"""Defaults of service and CPU engine."""
_ALONE = 3 / 4
"""Of the places, what a tenant that is alone may hold (`service/admission.py`)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service, Redis and the network take; see `measured.toml`."""

    cpu_s_per_request: float
    redis_bytes_per_completion: float
    redis_ttl_s: float
    document_bytes: float
    edit_bytes: float
    answer_bytes: float


@dataclass(frozen=True, slots=True)
class Price:
    """In US dollars, with where it is from."""

    price: float
    source: str


@dataclass(frozen=True, slots=True)
class Prices:
    """What is paid for."""

    engine_hour: Price
    core_hour: Price
    redis_gb_hour: Price
    seats: dict[str, Price]
    """Of closed products, for a developer and month."""


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("keyahead.capacity").joinpath(name).read_text())


def workload() -> Workload:
    """The typists of the load test, as they were measured on the CPU engine."""
    found = _read("measured.toml")["workload"]
    around = tuple((share, milliseconds / 1e3) for share, milliseconds in found.pop("around_ms"))
    return Workload(**found, around_s=around)


def machine() -> str:
    """On what the figures were taken, and when."""
    found = _read("measured.toml")["machine"]
    return f"{found['processor']}; {found['model']}; {found['date']}"


def cpu_engine() -> Engine:
    """The CPU engine on the machine that was measured."""
    data = _read("measured.toml")
    steps, engine = data["steps"], data["engine"]
    return Engine(
        name=f"CPU engine, {CPU_CORES} cores",
        steps=MeasuredSteps(tuple(steps["tokens"]), tuple(each / 1e3 for each in steps["milliseconds"])),
        places=int(_CPU_PLACES * _ALONE),
        chunk=_CPU_CHUNK,
        patience=_CPU_PATIENCE,
        call_s=engine["call_ms"] / 1e3,
        calls=engine["calls"],
        vain=engine["vain"],
        given=engine["given"],
        computed=engine["computed"],
        warm_prompts=_CPU_KV_TOKENS / data["workload"]["prompt_tokens"],
        kv_store_bytes=128e6,  # kv_store_mb
        slowdown=engine["slowdown"],
    )


def gpu_engine(model: str, gpu: str, precision: Precision | None) -> Engine:
    """A TensorRT-LLM engine by its roofline, decoding plainly: drafts would save steps, but how many has been measured on no GPU.

    Raises PlanRefused and SetupError, as `keyahead engine plan` does.
    """
    data = _read("measured.toml")
    proposal = Plan.make(model, gpu, precision or _PRECISIONS.get(gpu, Precision.BF16), licence_accepted=True).proposal
    return Engine(
        name=f"{gpu.upper()}, {model}, {proposal.precision}",
        steps=RooflineSteps(proposal.network, proposal.gpu, proposal.precision),
        places=int(proposal.limits.max_batch_size * _ALONE),
        chunk=proposal.limits.max_num_tokens,
        patience=0,
        call_s=data["engine"]["call_ms"] / 1e3,
        calls=0.0,
        vain=0.0,
        given=1.0,
        computed=1.0,
        warm_prompts=proposal.memory.kv_tokens / data["workload"]["prompt_tokens"],
        kv_store_bytes=0.0,
    )


def parts() -> Parts:
    """The figures of all but engine and typists."""
    data = _read("measured.toml")
    return Parts(
        data["service"]["cpu_ms_per_request"] / 1e3,
        data["redis"]["bytes_per_completion"],
        data["redis"]["ttl_s"],
        data["network"]["document_bytes"],
        data["network"]["edit_bytes"],
        data["network"]["answer_bytes"],
    )


def prices(gpu: str, engine_hour: float | None = None, core_hour: float | None = None) -> Prices:
    """For a kind of engine; what is given replaces what comes with the model."""
    data = _read("prices.toml")
    core = Price(**data["core_hour"]) if core_hour is None else Price(core_hour, "given")
    of_gpu = Price(CPU_CORES * core.price, f"{CPU_CORES} cores: {core.source}") if gpu == CPU else Price(**data["engine_hour"][gpu])
    return Prices(
        engine_hour=of_gpu if engine_hour is None else Price(engine_hour, "given"),
        core_hour=core,
        redis_gb_hour=Price(**data["redis_gb_hour"]),
        seats={seat["name"]: Price(seat["price"], seat["source"]) for seat in data["seats"]},
    )
