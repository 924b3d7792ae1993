"""A session's stream: reads messages, does what the machine decides, and writes replies. Every wait has a bound or ends with the stream."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.service.errors import DeadlineMissed, Draining
from keyahead.service.model import Answer, EngineUnavailable, Outcome, Overloaded, Query, Superseded
from keyahead.service.requests import Limits
from keyahead.service.session_machine import SessionMachine
from keyahead.service.session_messages import to_message, to_reply
from keyahead.service.session_model import Complete, Effect, Record, Release, Reply, Send, Stop, Warm
from keyahead.service.throttle import Throttle

MAX_REPLIES: Final = 64
"""Replies that may wait for a slow client before no more of its messages are read."""
WRITE_S: Final = 30.0
"""Longest wait for a client that does not read at all."""


class Host(Protocol):
    """What a session needs of the service."""

    @property
    def draining(self) -> asyncio.Event:
        """Set when the service shuts down."""

    async def suggest(self, query: Query, seconds: float | None) -> Answer:
        """One suggestion, by the latency budget of its trigger, or the rest of one that was cut short, within so many seconds.

        Raises Superseded, Overloaded, EngineUnavailable, Draining or DeadlineMissed.
        """

    def warm(self, query: Query) -> None:
        """Have the engine read a prompt, in the background."""

    def cool(self, query: Query) -> None:
        """End that; harmless when it has ended."""

    def record(self, tenant: str, outcome: Outcome) -> None:
        """Count what became of a suggestion."""


class SessionStream:
    """One stream, from its first message to its end."""

    def __init__(self, host: Host, tenant: str, limits: Limits, model: pb.ModelInfo, home: str = "") -> None:
        """`home` is what the client calls its buffer, the same for each of its streams; empty where it does not say."""
        self._host = host
        self._tenant = tenant
        self._limits = limits
        self._model = model
        self._machine = SessionMachine(secrets.token_hex(8), limits.document_bytes, home)
        self._group = asyncio.TaskGroup()
        self._suggestions: dict[str, set[asyncio.Task[None]]] = {}
        """By document: the newest, and one that it is about to supersede."""
        self._warming: tuple[str, Query] | None = None
        """For one document only: the one its user went to last."""
        self._replies: asyncio.Queue[Reply | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._throttle = Throttle()
        self._ended = False

    async def run(self, requests: AsyncIterator[pb.SessionRequest], write: Callable[[pb.SessionResponse], Awaitable[None]]) -> None:
        """Until the client ends the stream; raises what breaks it."""
        try:
            async with self._group:
                drain = self._group.create_task(self._until_draining())
                self._group.create_task(self._write(write))
                try:
                    async for request in requests:
                        await self._read(request)
                finally:
                    self._end()
                drain.cancel()
                self._replies.put_nowait(None)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _read(self, request: pb.SessionRequest) -> None:
        # Processor time: what other programs hold up is not this session's doing.
        began = time.thread_time()
        self._do(self._machine.handle(to_message(request, self._tenant, self._limits), time.monotonic()))
        if wait_s := self._throttle.wait_s(time.monotonic(), time.thread_time() - began):
            await asyncio.sleep(wait_s)
        if self._replies.qsize() >= MAX_REPLIES:
            self._room.clear()
            await self._room.wait()

    async def _write(self, write: Callable[[pb.SessionResponse], Awaitable[None]]) -> None:
        while (reply := await self._replies.get()) is not None:
            if self._replies.qsize() < MAX_REPLIES:
                self._room.set()
            try:
                async with asyncio.timeout(WRITE_S):
                    await write(to_reply(reply, self._model))
            except TimeoutError:
                raise Overloaded("the client does not read what it is sent; open a new stream", 1.0) from None

    async def _until_draining(self) -> None:
        await self._host.draining.wait()
        raise Draining

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Record():
                    self._host.record(self._tenant, effect.outcome)
                case _ if self._ended:
                    pass
                case Send():
                    self._replies.put_nowait(effect.reply)
                case Complete():
                    self._start(effect)
                case Warm():
                    self._cool()
                    self._warming = effect.document_id, effect.query
                    self._host.warm(effect.query)
                case Stop():
                    self._stop(effect.document_id)
                case Release():
                    self._stop(effect.document_id)
                    self._cool(effect.document_id)

    def _start(self, effect: Complete) -> None:
        """An older suggestion that has started is left to be superseded, since its decode may be joined."""
        task = self._group.create_task(self._complete(effect))
        tasks = self._suggestions.setdefault(effect.document_id, set())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _complete(self, effect: Complete) -> None:
        try:
            answer = await self._host.suggest(effect.query, effect.seconds)
        except Superseded:
            return
        except (Overloaded, EngineUnavailable, Draining, DeadlineMissed) as error:
            self._do(self._machine.failed(effect.document_id, effect.serial, error, time.monotonic()))
        else:
            self._do(self._machine.answered(effect.document_id, effect.serial, answer, time.monotonic()))

    def _stop(self, document_id: str) -> None:
        for task in self._suggestions.pop(document_id, ()):
            task.cancel()

    def _cool(self, document_id: str | None = None) -> None:
        """Stop warming, if it is for this document."""
        if self._warming is not None and document_id in {None, self._warming[0]}:
            self._host.cool(self._warming[1])
            self._warming = None

    def _end(self) -> None:
        """Stop all work; count what is still shown."""
        self._do(self._machine.end())
        self._cool()
        self._ended = True
