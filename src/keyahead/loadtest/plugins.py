"""What stands between a typist and a system: a plugin that asks with calls, or one that keeps a `Session` stream. In gevent."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import gevent
import grpc
from gevent.pool import Group

from keyahead.loadtest import rpc
from keyahead.loadtest.config import Target, Via
from keyahead.loadtest.editor import Editor, Heard
from keyahead.loadtest.judge import Ask, Failed, Outcome, Superseded
from keyahead.loadtest.targets import System, connect
from keyahead.loadtest.typist import Typist
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

GRACE_S = 2.0
"""How long answers are waited for when the last key has been hit."""
STREAM_S = 3600.0
"""Longest life of a stream; the service ends its connection after half of that."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Whose keys a plugin serves, and what it needs for that."""

    typist: Typist
    now_s: Callable[[], float]
    """Since the typist's start."""
    tell: Callable[[Ask, str, Exception | None], None]
    """A question has ended: its kind, and the error if it failed."""


class Plugin(Protocol):
    """An editor's plugin."""

    def key(self) -> None:
        """The key that is due is hit."""

    def close(self) -> None:
        """No key will come; wait for the last answers."""


Install = Callable[[Seat], Plugin]


def plugin(target: Target, number: int, run_id: str) -> Install:
    """The plugin that one typist's editor has for a system."""
    if target.via is Via.SESSION:
        stub = pb_grpc.AutocompleteStub(rpc.channel(target.address))
        return lambda seat: SessionPlugin(seat, stub, f"{run_id}.{number}")
    system = connect(target, number, run_id)
    return lambda seat: CallPlugin(seat, system)


class CallPlugin:
    """Asks on each key with a call of its own, and again where an answer is unfinished and no key comes."""

    def __init__(self, seat: Seat, system: System) -> None:
        self._seat = seat
        self._system = system
        self._asking = Group()

    def key(self) -> None:
        """Hit it, and ask."""
        if ask := self._seat.typist.act():
            self._asking.start(gevent.Greenlet(self._ask, ask))

    def close(self) -> None:
        """Wait for the last answers."""
        self._asking.join(GRACE_S)
        self._asking.kill()

    def _ask(self, ask: Ask | None) -> None:
        """Ask, hand the answer over, and ask again if there is more to be had and the person still waits."""
        typist, now_s = self._seat.typist, self._seat.now_s
        while ask:
            typist.sent(ask, now_s())
            try:
                answer = self._system(ask)
            except Superseded:
                typist.unanswered(ask, Outcome.SUPERSEDED, now_s())
                self._seat.tell(ask, "superseded", None)
                return
            except Failed as error:
                typist.unanswered(ask, Outcome.FAILED, now_s(), str(error))
                self._seat.tell(ask, "complete", error)
                return
            further = typist.answered(ask, answer, now_s())
            self._seat.tell(ask, "follow up" if ask.follow_up else "complete", None)
            if further:
                gevent.sleep(max(0.0, further.at_s - now_s()))
            ask = further if further and typist.still_waits(further) else None


class SessionPlugin:
    """Sends each key over a stream, which is opened again when it has ended, and shows what comes."""

    def __init__(self, seat: Seat, stub: pb_grpc.AutocompleteStub, session_id: str) -> None:
        self._seat = seat
        self._stub = stub
        self._session_id = session_id
        self._editor = Editor()
        self._messages: queue.SimpleQueue[pb.SessionRequest | None] | None = None
        self._listening = Group()

    def key(self) -> None:
        """Hit it, and send what it changed."""
        typist, num_taken = self._seat.typist, self._seat.typist.num_taken
        ask = typist.act()
        if ask:
            typist.sent(ask, self._seat.now_s())
        sent = self._editor.act(*typist.place, ask, took=typist.num_taken > num_taken)
        if sent.superseded:
            typist.unanswered(sent.superseded, Outcome.SUPERSEDED, self._seat.now_s())
            self._seat.tell(sent.superseded, "superseded", None)
        for message in sent.messages:
            self._send(message)
        if ask and sent.kept:
            typist.answered(ask, sent.kept, self._seat.now_s())
            self._seat.tell(ask, "kept", None)

    def close(self) -> None:
        """Wait for the last answer, and for what comes after it."""
        gevent.sleep(GRACE_S)
        self._listening.kill()
        if self._messages:
            self._messages.put(None)

    def _send(self, message: pb.SessionRequest) -> None:
        if self._messages is None:
            self._messages = queue.SimpleQueue()
            requests = iter(self._messages.get, None)
            call = self._stub.Session(requests, timeout=STREAM_S, metadata=rpc.metadata(self._session_id))
            self._listening.start(gevent.Greenlet(self._listen, call))
        self._messages.put(message)

    def _listen(self, replies: Iterator[pb.SessionResponse]) -> None:
        """Until the stream ends; then its last question has failed, and the next key opens another."""
        code = "stream ended"
        try:
            for reply in replies:
                self._hear(self._editor.hear(reply))
        except grpc.RpcError as error:
            code = error.code().name
        if self._messages:
            self._messages.put(None)
        self._messages = None
        self._hear(self._editor.lost(code))

    def _hear(self, heard: Heard | None) -> None:
        if not heard:
            return
        typist, now_s = self._seat.typist, self._seat.now_s()
        if isinstance(heard.answer, Failed):
            typist.unanswered(heard.ask, Outcome.FAILED, now_s, str(heard.answer))
            self._seat.tell(heard.ask, "session", heard.answer)
            return
        ask = heard.ask
        if heard.is_more:
            ask = replace(ask, at_s=now_s, follow_up=True)
            typist.sent(ask, now_s)
        typist.answered(ask, heard.answer, now_s)
        self._seat.tell(ask, "follow up" if heard.is_more else "session", None)
