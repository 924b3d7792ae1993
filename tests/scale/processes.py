"""What serves many people, as real processes on loopback: two Tritons, three services, Envoy, and a Redis Cluster of three."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from keyahead.engine import catalogue, repository
from keyahead.engine.store import RichProgress
from keyahead.engine.tether import tethered
from keyahead.service.engines import Roster, key_of
from keyahead.service.model import Query
from keyahead.stack import guard, libpython, probes, triton
from tests.cache.servers import Cluster, RedisServer, free_port
from tests.deploy.edge import Edge, Replica, Site, site

TENANT = "acme"
SERVED_BY = "x-served-by"
"""Header in which Envoy tells, here, which service has answered."""
MAX_CONTEXT_TOKENS = 2048
"""Of the small model."""
PATIENCE_S = 120.0
DRAIN_S = 30.0
"""Envoy tells a connection to leave with its next answer. That is waited for, also in the longest pause of those who type
(loadtest/pace.py): ended while a connection is there, it would take the call that comes just then.
"""
_SERVE = (sys.executable, "-P", "-c", "from keyahead.cli.main import app; app()", "serve")
_HOSTS = 'domains: ["*"]\n                      '
_TELL = f"""response_headers_to_add:
                        - header: {{ key: {SERVED_BY}, value: "%UPSTREAM_HOST%" }}
                      """
_TELL_THE_SERVICE = (f"{_HOSTS}# Bytes kept", f"{_HOSTS}{_TELL}# Bytes kept")


class Server(Protocol):
    """A process that can be killed, and started again."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it at once; harmless when it has ended."""


@dataclass(frozen=True, slots=True)
class Part:
    """One process of all."""

    name: str
    address: str
    server: Server
    start: Callable[[], Awaitable[None]]
    """Start it again once it has ended, and wait until it serves."""


class TritonServer:
    """Triton with a model, which can be killed, or asked to end, and started again on the same port."""

    def __init__(self, folder: Path, model_folder: Path) -> None:
        folder.mkdir()
        self._log = folder / "triton.log"
        self._models = repository.write_cpu(folder / "repository", model_folder, max_context=MAX_CONTEXT_TOKENS)
        self._ports = triton.Ports(free_port(), free_port())
        self.address = f"127.0.0.1:{self._ports.grpc}"
        self.start()

    def start(self) -> None:
        """Start it; `wait` tells when it serves."""
        # A name of its own for each start, so that a new one does not find what a killed one has left.
        self._shm = f"keyahead-{secrets.token_hex(4)}"
        program = triton.install(RichProgress(), offline=False)
        library = libpython.install(RichProgress(), offline=False)
        environment = {**os.environ, **triton.environment(program, library), "KEYAHEAD_REDIS_URL": "", "KEYAHEAD_CACHE_KEY": ""}
        command = tethered(*triton.command(program, self._models, self._ports, self._shm))
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)

    def wait(self) -> None:
        """Until its model is loaded and warm."""
        eventually(lambda: probes.triton_ready(self.address) or self.process.poll() is not None, "Triton does not start")
        assert self.process.poll() is None, self._log.read_text()[-2000:]

    def end(self) -> None:
        """As an orchestrator does: SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.kill()

    def kill(self) -> None:
        """At once, with the process that runs its model."""
        guard.kill_group(self.process.pid)
        self.process.wait()
        guard.remove_shared_memory(self._shm)


@dataclass
class Whole:
    """All of it."""

    site: Site
    tritons: list[TritonServer]
    redis: Cluster
    edges: contextlib.ExitStack
    edge: Edge = field(init=False)

    def engine_of(self, session: str) -> TritonServer:
        """The Triton that serves a session while all are there."""
        roster = Roster([each.address for each in self.tritons])
        for each in self.tritons:
            roster.resolved(each.address, [each.address])
        first = roster.ranked(key_of(Query("", "", tenant=TENANT, session_id=session)))[0]
        return next(each for each in self.tritons if each.address == first)

    def start_edge(self, port: int = 0) -> None:
        """Start an Envoy; editors find it where the last one was, if its port is given."""
        self.edge = self.edges.enter_context(self.site.edge(_TELL_THE_SERVICE, port=port))

    async def restart_service(self, replica: Replica) -> None:
        """SIGTERM, wait, start, and wait until Envoy sends calls there."""
        replica.process.terminate()
        await asyncio.to_thread(replica.process.wait, PATIENCE_S)
        await self.start_service(replica)

    async def start_service(self, replica: Replica) -> None:
        """Start one that has ended, and wait until Envoy sends calls there."""
        await self.site.revive(replica)
        await self.healthy()

    async def healthy(self) -> None:
        """Wait until Envoy sends calls to every service."""
        await asyncio.to_thread(eventually, lambda: len(self.edge.healthy()) == len(self.site.replicas), "a service is not ready")

    async def restart_triton(self, server: TritonServer) -> None:
        """SIGTERM, wait, start, and wait until it serves."""
        await asyncio.to_thread(server.end)
        await self.start_triton(server)

    async def start_triton(self, server: TritonServer) -> None:
        """Start one that has ended, and wait until it serves."""
        server.start()  # Not in a thread, with which it would end.
        await asyncio.to_thread(server.wait)

    async def restart_redis(self, node: RedisServer) -> None:
        """A node of the cluster: what it holds is lost, which is only a miss."""
        await asyncio.to_thread(node.kill)
        await self.start_redis(node)

    async def start_redis(self, node: RedisServer) -> None:
        """Start one that has ended, and wait until the cluster is whole."""
        await asyncio.to_thread(node.start)
        await asyncio.to_thread(self.redis.wait)

    async def replace_edge(self) -> None:
        """A second Envoy on the same port; then the first one drains, its editors connect to the second, and it ends."""
        old, port = self.edge, int(self.edge.editors.rpartition(":")[2])
        await asyncio.to_thread(self.start_edge, port)
        drain = urllib.request.Request(f"http://{old.admin}/drain_listeners?graceful", method="POST")
        await asyncio.to_thread(lambda: urllib.request.urlopen(drain, timeout=5).read())
        leaving = time.monotonic() + DRAIN_S
        while not _has_left(old) and time.monotonic() < leaving:
            await asyncio.sleep(0.2)
        old.process.terminate()
        await asyncio.to_thread(old.process.wait, PATIENCE_S)

    @property
    def services(self) -> list[Part]:
        """By their addresses at Envoy."""
        port = self.site.port
        return [
            Part(f"service {each.name}", f"{each.address}:{port}", each, partial(self.start_service, each)) for each in self.site.replicas
        ]

    @property
    def engines(self) -> list[Part]:
        """The Tritons."""
        numbered = enumerate(self.tritons, start=1)
        return [Part(f"Triton {number}", each.address, each, partial(self.start_triton, each)) for number, each in numbered]

    @property
    def nodes(self) -> list[Part]:
        """Those of the Redis Cluster."""
        numbered = enumerate(self.redis.nodes, start=1)
        return [Part(f"Redis {number}", f"127.0.0.1:{each.port}", each, partial(self.start_redis, each)) for number, each in numbered]


@contextlib.contextmanager
def whole(folder: Path, model: str, model_folder: Path) -> Iterator[Whole]:
    """Everything, ready; each process is ended by its id."""
    with contextlib.ExitStack() as stack:
        tritons = []
        for number in (1, 2):
            tritons.append(TritonServer(folder / f"triton-{number}", model_folder))
            stack.callback(tritons[-1].kill)
        redis = Cluster(folder)
        stack.callback(redis.close)
        environment = {
            "KEYAHEAD_TRITON_ADDRESS": ",".join(each.address for each in tritons),
            "KEYAHEAD_REDIS_URL": redis.url,
            "KEYAHEAD_CACHE_KEY": secrets.token_hex(32),
            "KEYAHEAD_MODEL_FOLDER": str(model_folder),
            "KEYAHEAD_MODEL_NAME": model,
            "KEYAHEAD_MODEL_VERSION": catalogue.get(model).sha256[:12],
        }
        services = folder / "site"
        services.mkdir()
        place = stack.enter_context(site(services, 3, command=_SERVE, environment=environment))
        for each in tritons:
            each.wait()
        made = Whole(place, tritons, redis, stack.enter_context(contextlib.ExitStack()))
        made.start_edge()
        yield made


def _has_left(edge: Edge) -> bool:
    """Whether it neither gets connections, which the system deals out to all that listen on a port, nor has any."""
    return bool(edge.counter("listener_manager.listener_stopped")) and not edge.counter("http.editors.downstream_cx_active")


def eventually(check: Any, what: str) -> None:
    """Wait until something is so; AssertionError if it does not become so."""
    give_up = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < give_up, what
        time.sleep(0.1)
