"""How a stack is put together."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyahead.engine import catalogue
from keyahead.engine.store import SetupError
from keyahead.service.config import ServiceConfig
from keyahead.stack.programs import Parts, Ports, Stack, compose
from keyahead.stack.redis import RedisProgram
from keyahead.stack.runfolder import RunFolder, run_folder
from keyahead.stack.triton import Triton

PORTS = Ports(grpc=1001, metrics=1002, triton=1003, triton_metrics=1004, redis=0)


@pytest.fixture
def run() -> Iterator[RunFolder]:
    """A run folder."""
    with run_folder() as folder:
        yield folder


def composed(run: RunFolder, model_folder: Path, *, redis: bool, redis_url: str | None = None) -> Stack:
    """A stack of parts that need not exist."""
    program = RedisProgram(Path("redis-server")) if redis else None
    parts = Parts(catalogue.get("qwen2.5-coder-0.5b"), model_folder, Triton(Path("triton")), Path("lib/libpython.so"), program, redis_url)
    return compose(parts, PORTS, run)


def test_the_service_starts_last_and_finds_the_others(run: RunFolder, tmp_path: Path) -> None:
    """Its settings are valid and name Triton's port, Redis' socket, the model and its version."""
    stack = composed(run, tmp_path, redis=True)
    assert [program.name for program in stack.programs] == ["Redis", "Triton", "Service"]
    config = ServiceConfig.from_environment(stack.programs[-1].environment)
    assert config.triton_address == "127.0.0.1:1003"
    assert config.redis_url == f"unix://{run.path}/redis.sock"
    assert (config.model_folder, config.model_name, config.model_version) == (tmp_path, "qwen2.5-coder-0.5b", "1d9614638d18")
    assert (config.grpc_port, config.metrics_port) == (1001, 1002)
    assert config.cache_key


def test_the_engine_may_use_redis_too(run: RunFolder, tmp_path: Path) -> None:
    """Triton gets the service's address and key, by its environment and not by its repository; Redis never gets the key."""
    redis, triton, service = composed(run, tmp_path, redis=True).programs
    for variable in ("KEYAHEAD_REDIS_URL", "KEYAHEAD_CACHE_KEY"):
        assert triton.environment[variable] == service.environment[variable]
    assert "KEYAHEAD_CACHE_KEY" not in redis.environment
    key = service.environment["KEYAHEAD_CACHE_KEY"]
    assert not [path for path in run.path.rglob("*") if path.is_file() and key in path.read_text()]


def test_an_operators_redis_is_used_and_none_is_started(run: RunFolder, tmp_path: Path) -> None:
    """With --redis-url the stack has two programs and the service gets the address."""
    stack = composed(run, tmp_path, redis=False, redis_url="redis://10.0.0.1:6379")
    assert [program.name for program in stack.programs] == ["Triton", "Service"]
    assert ServiceConfig.from_environment(stack.programs[-1].environment).redis_url == "redis://10.0.0.1:6379"


def test_without_redis_the_service_has_none(run: RunFolder, tmp_path: Path) -> None:
    """Then it caches in memory."""
    stack = composed(run, tmp_path, redis=False)
    assert ServiceConfig.from_environment(stack.programs[-1].environment).redis_url is None


def test_an_operators_cache_key_is_kept(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that several services can share one Redis."""
    monkeypatch.setenv("KEYAHEAD_CACHE_KEY", "ab" * 32)
    stack = composed(run, tmp_path, redis=True)
    assert ServiceConfig.from_environment(stack.programs[-1].environment).cache_key == bytes.fromhex("ab" * 32)


def test_a_taken_port_is_named_with_its_option() -> None:
    """The sentence has the port, the option and the variable."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"Port {port} is not free .*--triton-port or KEYAHEAD_TRITON_PORT\."):
            Ports(grpc=0, metrics=0, triton=port, triton_metrics=0, redis=0).require_free()


def test_two_options_may_not_name_one_port() -> None:
    """It is said before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SetupError, match=f"--grpc-port and --metrics-port are both {port}"):
        Ports(grpc=port, metrics=port, triton=0, triton_metrics=0, redis=0).require_free()


def test_an_adapter_reaches_engine_and_service(run: RunFolder, tmp_path: Path) -> None:
    """The engine takes its rank, and the service gives it to the one tenant there is; without one the engine takes none."""
    parts = Parts(catalogue.get("qwen2.5-coder-0.5b"), tmp_path, Triton(Path("triton")), Path("lib/libpython.so"), None, None)
    repository = run.path / "repository" / "tensorrt_llm" / "config.pbtxt"
    for adapter, rank in ((None, 0), (tmp_path / "adapter", 16)):
        stack = compose(dataclasses.replace(parts, adapter=adapter, adapter_rank=rank), PORTS, run)
        assert f'key: "max_lora_rank" value: {{ string_value: "{rank}" }}' in repository.read_text()
        file = ServiceConfig.from_environment(stack.programs[-1].environment).adapters_file
        assert (file.read_text() if file else None) == (f"default:{adapter}\n" if adapter else None)
