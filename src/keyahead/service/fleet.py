"""The engines of this process: a connection to each, who is at it, and what it has read. The thin shell around `engines.py`."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from keyahead.service.cold import Planner, PrefillRate, ReadPrompts
from keyahead.service.engine_client import EngineClient
from keyahead.service.engines import Roster
from keyahead.service.gate import Gate
from keyahead.service.metrics import Metrics
from keyahead.service.model import EngineUnavailable
from keyahead.service.prompt import PromptBuilder
from keyahead.service.read_ahead import ReadAhead

log = logging.getLogger(__name__)

RESOLVE_PERIOD_S = 2.0
"""How often names are looked up, as Envoy does (deploy/envoy): well within the 5 s that a pod of Triton waits before it stops."""
RESOLVE_TIMEOUT_S = 5.0
RETIRE_S = 30.0
"""Longest wait for the requests of an engine that is no longer named: as long as a call may last."""
_RETIRE_POLL_S = 0.1


@dataclass(frozen=True, eq=False, slots=True)
class Engine:
    """One engine and what is known of it."""

    client: EngineClient
    read: ReadPrompts
    rate: PrefillRate
    gate: Gate
    planner: Planner
    ahead: ReadAhead

    @classmethod
    def of(cls, client: EngineClient, builder: PromptBuilder, places: int, metrics: Metrics) -> Engine:
        """An engine of which nothing is known yet; nor is anything once it has been away, since it may have been restarted."""
        read, rate = ReadPrompts(), PrefillRate()
        client.on_ready = read.clear
        gate = Gate(places, read, rate, metrics)
        return cls(client, read, rate, gate, Planner(builder, read, rate), ReadAhead(gate, client, read, rate))


class Fleet:
    """All engines, by address."""

    def __init__(self, names: Sequence[str], connect: Callable[[str], Engine]) -> None:
        """`names` are HOST:PORT; `connect` makes the engine at an address."""
        self._names = names
        self._connect = connect
        self._roster = Roster(names)
        self._engines: dict[str, Engine] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect; `ready` tells when there is an engine that answers."""
        for name in self._names:
            if _is_address(name):
                self._apply(name, [name])
        if names := [name for name in self._names if not _is_address(name)]:
            self._following = asyncio.create_task(self._follow(names), name="engine-names")

    async def aclose(self) -> None:
        """Fail what is in flight and close all connections."""
        tasks = [*self._retiring, *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *(engine.client.aclose() for engine in self.engines), return_exceptions=True)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All that are named now."""
        return tuple(self._engines.values())

    @property
    def ready(self) -> bool:
        """Whether one of them answers."""
        return any(engine.client.ready for engine in self._engines.values())

    def choose(self, key: str) -> Engine:
        """The engine for requests of this key. Raises EngineUnavailable when none answers."""
        return self._first(key, lost=None)

    def another(self, key: str, lost: Engine) -> Engine:
        """The engine that takes over what was lost. Raises EngineUnavailable when no other answers."""
        return self._first(key, lost)

    def _first(self, key: str, lost: Engine | None) -> Engine:
        for address in self._roster.ranked(key):
            engine = self._engines[address]
            if engine is not lost and engine.client.ready:
                return engine
        raise EngineUnavailable("no engine is ready")

    async def _follow(self, names: Sequence[str]) -> None:
        while True:
            for name in names:
                self._apply(name, await _look_up(name))
            await asyncio.sleep(RESOLVE_PERIOD_S)

    def _apply(self, name: str, addresses: Iterable[str]) -> None:
        change = self._roster.resolved(name, addresses)
        for address in change.joined:
            self._engines[address] = engine = self._connect(address)
            engine.client.start()
        for address in change.left:
            task = asyncio.create_task(_retire(self._engines.pop(address)), name="engine-retires")
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        if change.joined or change.left:
            log.info("engines: %d joined, %d left", len(change.joined), len(change.left))


async def _retire(engine: Engine) -> None:
    """No new work comes; what is in flight has its time, as a pod that ends gives it."""
    try:
        for _ in range(round(RETIRE_S / _RETIRE_POLL_S)):
            if not engine.client.busy:
                break
            await asyncio.sleep(_RETIRE_POLL_S)
    finally:
        await engine.client.aclose()


def _split(name: str) -> tuple[str, int]:
    host, _, port = name.rpartition(":")
    return host.strip("[]"), int(port)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(_split(name)[0])
    except ValueError:
        return False
    return True


async def _look_up(name: str) -> list[str]:
    """The addresses behind a name, none if it cannot be looked up; of one family, or an engine with two addresses would count twice."""
    host, port = _split(name)
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    fourth = [f"{address[0]}:{port}" for family, _, _, _, address in found if family is socket.AF_INET]
    return fourth or [f"[{address[0]}]:{port}" for family, _, _, _, address in found if family is socket.AF_INET6]
