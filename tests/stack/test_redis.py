"""Our Redis server, a real one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from keyahead.engine.store import RichProgress, SetupError
from keyahead.stack import probes, redis


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The address of a started server, which may not be ready yet."""
    program = redis.install(RichProgress(), offline=False)
    socket = tmp_path / "r.sock"
    environment = {**os.environ, **program.environment}
    with subprocess.Popen(redis.command(program, socket, 0), env=environment, stdout=subprocess.DEVNULL) as server:
        yield f"unix://{socket}"
        server.kill()


def test_redis_is_a_private_cache_in_memory(url: str) -> None:
    """Reached through a socket of this user, on no port, with a memory limit, evicting the least used, writing nothing to disk."""
    while not probes.redis_ready(url):
        time.sleep(0.02)
    socket = Path(url.removeprefix("unix://"))
    assert socket.stat().st_mode & 0o777 == 0o600
    with Redis.from_url(url, decode_responses=True) as client:
        settings = client.config_get("port", "maxmemory", "maxmemory-policy", "save", "appendonly")
    assert settings == {
        "port": "0",
        "maxmemory": str(384 << 20),
        "maxmemory-policy": "allkeys-lfu",
        "save": "",
        "appendonly": "no",
    }


def test_a_server_that_is_not_there_is_not_ready(tmp_path: Path) -> None:
    """No answer is no error while a stack starts, but a sentence when the operator has named the server."""
    url = f"unix://{tmp_path / 'nobody.sock'}"
    assert not probes.redis_ready(url)
    with pytest.raises(SetupError, match=r"--redis-url does not answer .*: start it"):
        probes.require_redis(url)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("redis+cluster://user:secret@one:7000,two:7000?a=b", "redis://user:secret@one:7000?a=b"),
        ("rediss+sentinel://user:secret@one:26379,two:26379/main/1?a=b", "rediss://one:26379?a=b"),
    ],
)
def test_of_many_servers_the_first_is_asked(url: str, asked: str) -> None:
    """The operator's address may be that of a cluster or of Sentinels, which are asked without credentials."""
    assert probes._one_server(url) == asked


def test_a_program_that_does_not_run_is_told() -> None:
    """For example one whose libraries are missing."""
    with pytest.raises(SetupError, match=r"does not run on this machine .*: install redis-server"):
        redis.version(redis.RedisProgram(Path("/bin/false")))


def test_a_socket_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    """Linux allows 107 bytes; the cure names the variable."""
    with pytest.raises(SetupError, match="TMPDIR"):
        redis.command(redis.RedisProgram(Path("redis-server")), tmp_path / ("x" * 100), 0)
