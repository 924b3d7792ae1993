"""Real Redis servers for tests, on free ports of the loopback interface: one, a cluster of three, a primary with replica and Sentinel."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from keyahead.cache import RedisSettings
from keyahead.engine.store import RichProgress
from keyahead.stack import redis

SERVER_KEY = b"a server key for tests, 32 bytes"
# Long enough for a busy machine; nothing waits this long unless it is broken.
PATIENCE_S = 20


@functools.cache
def program() -> redis.RedisProgram:
    """The server of this machine, fetched into the user's cache if there is none."""
    return redis.install(RichProgress(), offline=False)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def eventually(check: Callable[[], Any], what: str) -> Any:
    """What the check returns once it is true; errors of Redis count as false."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            if found := check():
                return found
        except RedisError:
            pass
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


def settings(url: str, budget_s: float = 2.0, socket_timeout_s: float = 5.0, **more: Any) -> RedisSettings:
    """Settings to reach an address, patient unless told otherwise, so that a busy machine changes no outcome."""
    return RedisSettings(url, SERVER_KEY, budget_s=budget_s, socket_timeout_s=socket_timeout_s, **more)


class RedisServer:
    """A server process that can be frozen, killed and started again on the same port."""

    def __init__(self, folder: Path, *mode: str, **options: object) -> None:
        """`options` are settings of redis.conf, with underscores for hyphens; `mode` may be --sentinel."""
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.admin = Redis(port=self.port, socket_timeout=5)
        self._folder = folder
        self._mode = mode
        defaults = {"port": self.port, "bind": "127.0.0.1", "dir": folder, "logfile": "redis.log"}
        self._options = {**defaults, **({} if mode else {"save": ""}), **options}
        self.start()

    def settings(self, budget_s: float = 2.0, socket_timeout_s: float = 5.0, **more: Any) -> RedisSettings:
        """Settings to reach it."""
        return settings(self.url, budget_s, socket_timeout_s, **more)

    def start(self) -> None:
        """Start it and wait until it answers."""
        config = self._folder / "redis.conf"
        if not config.exists():  # a Sentinel keeps its state there
            config.write_text("".join(f"{name.replace('_', '-')} {_quoted(value)}\n" for name, value in self._options.items()))
        environment = {**os.environ, **program().environment}
        self.process = subprocess.Popen([program().path, config, *self._mode], env=environment)
        eventually(self.admin.ping, "redis-server does not answer")

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
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, and all it holds with it."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it for good."""
        self.admin.close()
        self.kill()


def _quoted(value: object) -> str:
    return str(value) or '""'


class Cluster:
    """Three servers that share the slots among them."""

    def __init__(self, folder: Path, options: Sequence[Mapping[str, object]] = ({}, {}, {})) -> None:
        """`options`: settings of redis.conf for each server."""
        common = {"cluster_enabled": "yes", "cluster_node_timeout": 2000}
        self.nodes = [
            RedisServer(folder / f"node{number}", cluster_port=free_port(), **common, **own) for number, own in enumerate(options)
        ]
        first = self.nodes[0]
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(self.nodes):
            node.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            bus = node.admin.config_get("cluster-port")["cluster-port"]
            first.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        self.wait()

    def wait(self) -> None:
        """Until every node sees all slots served by all."""
        for node in self.nodes:
            eventually(functools.partial(self._is_whole, node), "the cluster does not form")

    @staticmethod
    def _is_whole(node: RedisServer) -> bool:
        state = node.admin.execute_command("CLUSTER", "INFO")
        known = state if isinstance(state, dict) else dict(line.split(":") for line in state.decode().split())
        return (known["cluster_state"], known["cluster_known_nodes"]) == ("ok", "3")

    @property
    def url(self) -> str:
        """Its address: two of the three nodes."""
        return f"redis+cluster://127.0.0.1:{self.nodes[1].port},127.0.0.1:{self.nodes[2].port}"

    def identity(self, node: RedisServer) -> str:
        """The name by which the nodes know each other."""
        return str(node.admin.execute_command("CLUSTER", "MYID"), "ascii")

    def close(self) -> None:
        """End all."""
        for node in self.nodes:
            node.close()


class Watched:
    """A primary, its replica, and a Sentinel that makes the replica the primary when the first one is silent."""

    def __init__(self, folder: Path) -> None:
        self.primary = RedisServer(folder / "primary", repl_diskless_sync_delay=0)
        self.replica = RedisServer(folder / "replica", replicaof=f"127.0.0.1 {self.primary.port}")
        monitor = {
            "sentinel monitor main": f"127.0.0.1 {self.primary.port} 1",
            "sentinel down-after-milliseconds main": 500,
            "sentinel failover-timeout main": 2000,
        }
        self.sentinel = RedisServer(folder / "sentinel", "--sentinel", **monitor)
        self.url = f"redis+sentinel://127.0.0.1:{self.sentinel.port}/main"
        eventually(lambda: self.replica.admin.info("replication")["master_link_status"] == "up", "the replica does not follow")
        eventually(lambda: self.sentinel.admin.sentinel_slaves("main"), "the Sentinel does not know the replica")

    def wait_for_failover(self) -> None:
        """Until the replica has become the primary."""
        eventually(lambda: self.replica.admin.role()[0] == b"master", "there is no failover")

    def close(self) -> None:
        """End all."""
        for server in (self.sentinel, self.primary, self.replica):
            server.close()
