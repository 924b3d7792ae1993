"""What the cache's tests share: a real Redis server on a free port of the loopback interface, and a recorder of events."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis
from redis.exceptions import RedisError

from keyahead.cache import CacheEvents, RedisSettings
from keyahead.engine.store import cache_dir

# A busy machine makes no example wrong.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

SERVER_KEY = b"a server key for tests, 32 bytes"


def _executable() -> str:
    """The server installed on this machine, or the one that set-up has put into the user's cache folder."""
    ours = (str(path) for path in sorted(cache_dir().rglob("redis-server")) if path.is_file() and os.access(path, os.X_OK))
    found = shutil.which("redis-server") or next(ours, None)
    if found is None:
        pytest.fail("redis-server is missing: run 'make test', which sets it up, or install the package redis-server")
    return found


class RedisServer:
    """A server process that can be frozen, killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self.admin = Redis(port=self.port, socket_timeout=5)
        self.start()

    def settings(self, budget_s: float = 2.0, socket_timeout_s: float = 5.0) -> RedisSettings:
        """Settings to reach it, patient unless told otherwise, so that a busy machine changes no outcome."""
        url = f"redis://127.0.0.1:{self.port}/0"
        return RedisSettings(url, SERVER_KEY, budget_s=budget_s, socket_timeout_s=socket_timeout_s)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self._folder), "save": "", "logfile": "redis.log"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([_executable(), *words])  # our own words
        give_up = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < give_up, "redis-server does not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except RedisError:
            return False

    def connections(self) -> int:
        """Connections received since it started."""
        return int(self.admin.info("stats")["total_connections_received"])

    def dump(self) -> bytes:
        """All it holds, as written to disk; not compressed, so that text in it would be seen."""
        self.admin.config_set("rdbcompression", "no")
        self.admin.save()
        return (self._folder / "dump.rdb").read_bytes()

    def log(self) -> bytes:
        """What it has logged."""
        return (self._folder / "redis.log").read_bytes()

    def freeze(self) -> None:
        """Keep it from running; its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, and all it holds with it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it for good."""
        self.admin.close()
        self.kill()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty server."""
    server = RedisServer(tmp_path)
    yield server
    server.close()


class Recorder(CacheEvents):
    """Counts events by name and outcome."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.states: list[str] = []

    def hit(self, tier: str, typed: int) -> None:
        self.counts[f"hit {tier}"] += 1

    def miss(self) -> None:
        self.counts["miss"] += 1

    def redis_read(self, outcome: str) -> None:
        self.counts[f"read {outcome}"] += 1

    def redis_write(self, outcome: str, count: int) -> None:
        self.counts[f"write {outcome}"] += count

    def breaker(self, state: str) -> None:
        self.states.append(state)


@pytest.fixture
def events() -> Recorder:
    """An empty recorder."""
    return Recorder()
