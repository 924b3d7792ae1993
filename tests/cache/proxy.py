"""A TCP proxy in front of a Redis server, with faults that can be switched at any time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

# No waiting when it is closed: the other side sees a reset.
_ABRUPTLY = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to a port of the loopback interface."""

    def __init__(self, upstream: int = 0) -> None:
        self.upstream = upstream
        self.delay_s = 0.0
        """How long each reply is held back."""
        self.black_hole = False
        """Take everything and answer nothing."""
        self.cut_after: int | None = None
        """Reset the connection once so many bytes of a reply have been sent."""
        self.trickle_bytes: int | None = None
        """Send replies in pieces of this size."""
        self.requests: list[bytes] = []
        """What clients have sent, message by message."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, to_redis = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            _reset(writer)
            return
        up = asyncio.create_task(_pump(reader, lambda data: self._send_on(data, to_redis)))
        down = asyncio.create_task(_pump(upstream, lambda data: self._send_back(data, writer)))
        self._tasks |= {up, down}
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            _reset(writer)
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
            await asyncio.sleep(0)


async def _pump(reader: asyncio.StreamReader, forward: Callable[[bytes], Awaitable[None]]) -> None:
    try:
        while data := await reader.read(1 << 16):
            await forward(data)
    except OSError:
        pass


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPTLY)
    writer.transport.abort()
