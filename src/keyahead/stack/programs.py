"""The programs of a stack, Redis, Triton and the service: how each is started, when it is ready and what it may take."""

from __future__ import annotations

import functools
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keyahead.engine import repository
from keyahead.engine.catalogue import Model
from keyahead.engine.store import SetupError
from keyahead.stack import guard, probes, redis, triton
from keyahead.stack.policy import Rules
from keyahead.stack.process import Program
from keyahead.stack.runfolder import RunFolder

MAX_CONTEXT_TOKENS = 4096
"""Two prompts' budget of the default model; more would only cost KV memory."""
DEFAULT_TENANT = "default"
"""Whom the service takes a caller for while it has no tokens."""
_ENGINE_NICENESS = 5
"""Steps of the engine take every core for tens of milliseconds, and cache hits that need one for less than 1 ms had to wait for it. Beside
four clients that asked for cold prompts without pause, hits had a p99 of 20 to 26 ms; with 3 to 10 they had 7 to 19 ms (600 hits each, two
cores). More than this would gain little and starve the engine beside a compiler."""
_REDIS_RULES = Rules(start_s=10, stop_s=3)
# Loading and warming up takes some 10 s on two cores that do nothing else. When it stops, Triton waits 3 s for its requests.
_TRITON_RULES = Rules(start_s=180, stop_s=8)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen, all on the loopback interface."""

    grpc: int
    metrics: int
    triton: int
    triton_metrics: int
    redis: int
    """0: only on its socket."""

    def require_free(self) -> None:
        """Raise a SetupError that names the first port in use."""
        options = {
            "--grpc-port": self.grpc,
            "--metrics-port": self.metrics,
            "--triton-port": self.triton,
            "--triton-metrics-port": self.triton_metrics,
            "--redis-port": self.redis,
        }
        used: dict[int, str] = {}
        for option, port in options.items():
            if not port:
                continue
            if port in used:
                raise SetupError(f"{used[port]} and {option} are both {port}: give one of them another port.")
            used[port] = option
            probes.require_free_port(port, option)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the set-up has made ready."""

    model: Model
    model_folder: Path
    """The converted model."""
    triton: triton.Triton
    libpython: Path
    redis: redis.RedisProgram | None
    """None: the stack starts no Redis."""
    redis_url: str | None
    """The operator's own server."""
    adapter: Path | None = None
    """Folder of the LoRA adapter that completions are made with."""
    adapter_rank: int = 0


@dataclass(frozen=True, slots=True)
class Stack:
    """The programs, each after those it needs, and where they can be reached."""

    programs: tuple[Program, ...]
    service_address: str
    redis_url: str | None


def compose(parts: Parts, ports: Ports, run: RunFolder) -> Stack:
    """The stack for these parts; writes Triton's repository into the run folder. Raises SetupError."""
    programs = []
    redis_url = parts.redis_url
    if parts.redis:
        socket = run.path / "redis.sock"
        redis_url = f"unix://{socket}"
        programs.append(_redis(parts.redis, socket, ports.redis, redis_url))
    shared = {
        "KEYAHEAD_REDIS_URL": redis_url or "",
        # One key for the whole life of the stack, so that what is restarted still finds what it has cached.
        "KEYAHEAD_CACHE_KEY": os.environ.get("KEYAHEAD_CACHE_KEY") or secrets.token_hex(32),
    }
    programs.append(_triton(parts, ports, run, shared))
    address = f"127.0.0.1:{ports.grpc}"
    programs.append(_service(parts, ports, address, {**shared, **_adapters(parts, run)}))
    return Stack(tuple(programs), address, redis_url)


def _redis(program: redis.RedisProgram, socket: Path, port: int, url: str) -> Program:
    return Program(
        name="Redis",
        command=tuple(redis.command(program, socket, port)),
        environment=_environment(program.environment),
        rules=_REDIS_RULES,
        is_ready=functools.partial(probes.redis_ready, url),
    )


def _triton(parts: Parts, ports: Ports, run: RunFolder, shared: Mapping[str, str]) -> Program:
    max_context = min(MAX_CONTEXT_TOKENS, parts.model.context_tokens)
    limits = {"max_context": max_context, "max_lora_rank": parts.adapter_rank}
    models = repository.write_cpu(run.path / "repository", parts.model_folder, **limits)
    return Program(
        name="Triton",
        command=tuple(triton.command(parts.triton, models, triton.Ports(ports.triton, ports.triton_metrics), run.shm_prefix)),
        environment=_environment({**triton.environment(parts.triton, parts.libpython), **shared}),
        rules=_TRITON_RULES,
        is_ready=functools.partial(probes.triton_ready, f"127.0.0.1:{ports.triton}"),
        needs_its_children=True,
        niceness=_ENGINE_NICENESS,
        after_end=functools.partial(guard.remove_shared_memory, run.shm_prefix),
    )


def _adapters(parts: Parts, run: RunFolder) -> dict[str, str]:
    """For the one tenant that there is without tokens."""
    if parts.adapter is None:
        return {}
    file = run.path / "adapters"
    file.write_text(f"{DEFAULT_TENANT}:{parts.adapter.absolute()}\n")
    return {"KEYAHEAD_ADAPTERS_FILE": str(file)}


def _service(parts: Parts, ports: Ports, address: str, shared: Mapping[str, str]) -> Program:
    settings = {
        "KEYAHEAD_GRPC_PORT": str(ports.grpc),
        "KEYAHEAD_METRICS_PORT": str(ports.metrics),
        "KEYAHEAD_TRITON_ADDRESS": f"127.0.0.1:{ports.triton}",
        "KEYAHEAD_MODEL_FOLDER": str(parts.model_folder),
        "KEYAHEAD_MODEL_NAME": parts.model.name,
        "KEYAHEAD_MODEL_VERSION": parts.model.sha256[:12],
        **shared,
    }
    return Program(
        name="Service",
        command=(sys.executable, "-P", "-c", "from keyahead.cli.main import app; app()", "serve"),
        environment=_environment(settings),
        # It starts while Triton loads, and is ready when that is. It gives its own calls 5 s when it stops.
        rules=Rules(start_s=240, stop_s=8, after=("Redis",) if parts.redis else ()),
        is_ready=functools.partial(probes.service_ready, address),
    )


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    # The cache's key is for those who seal values, not for Redis.
    inherited = {name: value for name, value in os.environ.items() if name != "KEYAHEAD_CACHE_KEY"}
    return {**inherited, **own}
