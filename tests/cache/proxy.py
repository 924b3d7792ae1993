"""TCP proxies in front of Redis servers, with faults that can be switched at any time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cache.servers import Cluster

# No waiting when it is closed: the other side sees a reset.
_ABRUPTLY = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to a port of the loopback interface."""

    def __init__(self, upstream: int = 0) -> None:
        self.upstream = upstream
        self.requests: list[bytes] = []
        """What clients have sent, message by message."""
        self._pumps: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[Any]] = set()
        self.heal()

    def heal(self) -> None:
        """End all faults."""
        self.delay_s = 0.0
        """How long each reply is held back."""
        self.black_hole = False
        """Take everything and answer nothing."""
        self.cut_after: int | None = None
        """Reset the connection once so many bytes of a reply have been sent."""
        self.trickle_bytes: int | None = None
        """Send replies in pieces of this size."""
        self.pause_s = 0.0
        """Wait so long after each piece."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        while self._connections:
            for pump in self._pumps:
                pump.cancel()
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection
        self._connections.add(connection)
        try:
            await self._relay(reader, writer)
        finally:
            _reset(writer)
            await asyncio.sleep(0)  # closing takes a turn of the loop
            self._connections.discard(connection)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, to_redis = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            return
        up = asyncio.create_task(_pump(reader, lambda data: self._send_on(data, to_redis)))
        down = asyncio.create_task(_pump(upstream, lambda data: self._send_back(data, writer)))
        self._pumps |= {up, down}
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for pump in (up, down):
            pump.cancel()
        await asyncio.wait({up, down})
        self._pumps -= {up, down}
        to_redis.close()

    async def _send_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        self.requests.append(data)
        if not self.black_hole:
            writer.write(data)

    async def _send_back(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.black_hole:
            return
        if self.cut_after is not None:
            writer.write(data[: self.cut_after])
            await writer.drain()
            raise ConnectionResetError
        step = self.trickle_bytes or len(data)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await asyncio.sleep(self.pause_s)


@asynccontextmanager
async def proxied_cluster(folder: Path) -> AsyncIterator[tuple[Cluster, list[Proxy]]]:
    """A cluster whose nodes tell clients to find them at proxies."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy()) for _ in range(3)]
        cluster = await asyncio.to_thread(Cluster, folder, [{"cluster_announce_port": proxy.port} for proxy in proxies])
        stack.callback(cluster.close)
        for proxy, node in zip(proxies, cluster.nodes, strict=True):
            proxy.upstream = node.port
        yield cluster, proxies


async def _pump(reader: asyncio.StreamReader, forward: Callable[[bytes], Awaitable[None]]) -> None:
    try:
        while data := await reader.read(1 << 16):
            await forward(data)
    except OSError:
        pass


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPTLY)
        writer.transport.abort()
