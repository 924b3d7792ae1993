"""A session's decisions: what a client's message or an answer leads to. Neither time nor tasks are known here.

Each document has at most one suggestion asked for and at most one shown. A shown one lives as long as the user types what it begins with.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from keyahead.service.documents import Document, Lost, OutOfSync
from keyahead.service.model import Answer, OutcomeKind, Overloaded, Query, Source, Trigger
from keyahead.service.pacing import Pacer
from keyahead.service.session_model import (
    Ask,
    Close,
    Complete,
    Edit,
    Effect,
    Failure,
    Message,
    MoveCursor,
    Open,
    Pacing,
    Record,
    Release,
    Resync,
    Send,
    Settle,
    Stop,
    Suggestion,
    Warm,
    Withdraw,
)
from keyahead.service.shown import UNFINISHED, Shown

MAX_DOCUMENTS: Final = 8
"""Documents kept for a stream: those an editor switches between within minutes. Opening one again costs a message."""
FOLLOW_UP_S: Final = 10.0
"""How long the rest of a suggestion that was cut short is waited for: as long as its decode goes on without a request (`LINGER_S`)."""
_MAX_AWAITED: Final = 64
_CACHED: Final = frozenset({Source.MEMORY, Source.REDIS})


@dataclass(frozen=True, slots=True)
class _Asked:
    """A suggestion asked for and not answered."""

    serial: int
    query: Query
    began: float
    follow_up: bool
    """Whether it is for the rest of an answer that was cut short."""

    @property
    def automatic(self) -> bool:
        """Whether nobody wants to wait for it."""
        return self.query.trigger is Trigger.AUTOMATIC


@dataclass(slots=True)
class _Buffer:
    """A document that the client has open."""

    opened: Open
    """Without its text, which the document has."""
    document: Document
    session_id: str
    """Unique in the process: by it, the pipeline knows which request is the newest."""
    asked: _Asked | None = None
    shown: Shown | None = None

    def query(self, request_id: str = "", trigger: Trigger = Trigger.AUTOMATIC) -> Query:
        """What to ask at the cursor."""
        text, cursor = self.document.text, self.document.cursor
        return self.opened.query._replace(
            prefix=text[:cursor],
            suffix=text[cursor:],
            trigger=trigger,
            session_id=self.session_id,
            request_id=request_id,
            deleted="\n".join(self.document.deleted),
        )


class SessionMachine:
    """One stream's documents, what is asked and shown in them, and the typist's pace."""

    def __init__(self, key: str, max_document_bytes: int, home: str = "") -> None:
        """`key` is the stream's name, unique among all streams of the process; `home` the client's, the same when it opens another one."""
        self._key = key
        self._home = home
        self._max_document_bytes = max_document_bytes
        self._buffers: OrderedDict[str, _Buffer] = OrderedDict()
        """By document, the one used last at the end."""
        self._awaited: LRUCache[str, None] = LRUCache(_MAX_AWAITED)
        """Documents that the client has been told to open again; what it had sent by then is dropped."""
        self._pacer = Pacer()
        self._told_ms = 0
        """The wait that the client was told last."""
        self._serials = itertools.count(1)

    def handle(self, message: Message, now: float) -> list[Effect]:
        """The client says something."""
        match message:
            case Open():
                return self._open(message)
            case Settle():
                return self._settle(message)
            case Close():
                return self._release(message.document_id)
            case _:
                return self._change(message, now)

    def answered(self, document_id: str, serial: int, answer: Answer, now: float) -> list[Effect]:
        """A suggestion has been made; nothing comes of it if it is not wanted any more."""
        buffer, asked = self._asked(document_id, serial)
        if buffer is None or asked is None:
            return []
        buffer.asked = None
        if not asked.follow_up:
            self._note(answer, now - asked.began)
        effects = self._show(buffer, asked, answer, now)
        if answer.finish_reason in UNFINISHED and asked.automatic:
            effects += self._start(buffer, now, asked.query._replace(trigger=Trigger.MANUAL), follow_up=True)
        return effects + self._tell_pace()

    def failed(self, document_id: str, serial: int, error: Exception, now: float) -> list[Effect]:
        """A suggestion cannot be made; the client is told, unless it was one that it did not ask for."""
        buffer, asked = self._asked(document_id, serial)
        if buffer is None or asked is None:
            return []
        buffer.asked = None
        if asked.follow_up:
            return []
        self._pacer.late(error.retry_after_s if isinstance(error, Overloaded) else now - asked.began)
        return [Send(Failure(document_id, asked.query.request_id, error)), *self._tell_pace()]

    def end(self) -> list[Effect]:
        """The stream is over."""
        return [effect for document_id in list(self._buffers) for effect in self._release(document_id)]

    def check_integrity(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        assert len(self._buffers) <= MAX_DOCUMENTS  # noqa: S101  # this is what it is for
        assert sum(each.document.num_bytes for each in self._buffers.values()) <= 2 * self._max_document_bytes  # noqa: S101
        for buffer in self._buffers.values():
            if buffer.shown is not None:
                assert buffer.shown.at == buffer.document.cursor  # noqa: S101
                assert buffer.shown.rest  # noqa: S101
            if buffer.asked is not None and buffer.asked.follow_up and buffer.shown is not None:
                assert buffer.asked.query.request_id == buffer.shown.request_id  # noqa: S101

    def _open(self, message: Open) -> list[Effect]:
        effects = self._release(message.document_id)
        self._awaited.pop(message.document_id, None)
        query = message.query
        document = Document(query.prefix + query.suffix, len(query.prefix), message.version, message.encoding, self._max_document_bytes)
        opened = dataclasses.replace(message, query=query._replace(prefix="", suffix="", home=self._home or query.path))
        buffer = _Buffer(opened, document, f"{self._key}:{next(self._serials)}")
        self._buffers[message.document_id] = buffer
        return [*effects, *self._evict(), Warm(message.document_id, buffer.query())]

    def _change(self, message: Edit | MoveCursor | Ask, now: float) -> list[Effect]:
        document_id = message.document_id
        buffer = self._buffers.get(document_id)
        if buffer is None:
            return self._resync(document_id, 0, Lost.NOT_OPEN)
        self._buffers.move_to_end(document_id)
        try:
            match message:
                case Edit():
                    return self._edit(buffer, message, now)
                case MoveCursor():
                    return self._move(buffer, message)
                case Ask():
                    return self._ask(buffer, message, now)
        except OutOfSync as lost:
            return [*self._release(document_id), *self._resync(document_id, buffer.document.version, lost.reason)]

    def _edit(self, buffer: _Buffer, message: Edit, now: float) -> list[Effect]:
        self._pacer.key(now)
        splices = buffer.document.edit(message.base_version, message.version, message.changes, message.cursor)
        shown = buffer.shown and buffer.shown.typed_on(splices, buffer.document.cursor)
        effects = self._withdraw(buffer) if shown is None else []
        buffer.shown = shown
        if shown is not None and not shown.rest:
            effects += self._end_shown(buffer, OutcomeKind.ACCEPTED)
            shown = None
        if shown is not None and shown.finished:
            self._pacer.free()
            effects += self._stop(buffer)
        elif buffer.opened.ask_on_edit:
            self._overtake(buffer, now)
            query = buffer.query(shown.request_id if shown is not None else self._new_id())
            effects += self._start(buffer, now, query)
        else:
            self._overtake(buffer, now)
            effects += self._stop(buffer)
        return [*effects, *self._tell_pace(), *self._evict()]

    def _move(self, buffer: _Buffer, message: MoveCursor) -> list[Effect]:
        document = buffer.document
        document.expect(message.version)
        before = document.cursor
        document.move(message.cursor)
        if document.cursor == before:
            return []
        effects = [*self._withdraw(buffer), *self._stop(buffer)]
        if document.line_of(before) != document.line_of(document.cursor):
            effects.append(Warm(message.document_id, buffer.query()))
        return effects

    def _ask(self, buffer: _Buffer, message: Ask, now: float) -> list[Effect]:
        buffer.document.expect(message.version)
        query = buffer.query(message.request_id or self._new_id(), message.trigger)
        return self._start(buffer, now, query if message.mode is None else query._replace(mode=message.mode))

    def _settle(self, message: Settle) -> list[Effect]:
        for buffer in self._buffers.values():
            if buffer.shown is not None and buffer.shown.request_id == message.request_id:
                if message.kind is OutcomeKind.PARTIAL:
                    buffer.shown = buffer.shown.accepted(message.accepted_chars)
                    return []
                return [*self._end_shown(buffer, message.kind), *self._stop(buffer)]
        return []

    def _release(self, document_id: str) -> list[Effect]:
        buffer = self._buffers.pop(document_id, None)
        return [] if buffer is None else [*self._end_shown(buffer, OutcomeKind.WITHDRAWN), Release(document_id)]

    def _evict(self) -> list[Effect]:
        """Forget the documents that were used least recently until the others are within the bounds."""
        effects: list[Effect] = []
        limit = 2 * self._max_document_bytes
        while len(self._buffers) > MAX_DOCUMENTS or sum(each.document.num_bytes for each in self._buffers.values()) > limit:
            effects += self._release(next(iter(self._buffers)))
        return effects

    def _resync(self, document_id: str, expected: int, reason: Lost) -> list[Effect]:
        if document_id in self._awaited:
            return []
        self._awaited[document_id] = None
        return [Send(Resync(document_id, expected, reason))]

    def _start(self, buffer: _Buffer, now: float, query: Query, *, follow_up: bool = False) -> list[Effect]:
        asked = buffer.asked = _Asked(next(self._serials), query, now, follow_up)
        return [Complete(buffer.opened.document_id, asked.serial, query, FOLLOW_UP_S if follow_up else None)]

    def _asked(self, document_id: str, serial: int) -> tuple[_Buffer | None, _Asked | None]:
        buffer = self._buffers.get(document_id)
        asked = None if buffer is None else buffer.asked
        return (buffer, asked) if asked is not None and asked.serial == serial else (None, None)

    def _overtake(self, buffer: _Buffer, now: float) -> None:
        """The next key has come before the answer."""
        asked = buffer.asked
        if asked is not None and asked.automatic:
            self._pacer.late(now - asked.began)

    def _stop(self, buffer: _Buffer) -> list[Effect]:
        asked, buffer.asked = buffer.asked, None
        return [] if asked is None else [Stop(buffer.opened.document_id)]

    def _note(self, answer: Answer, seconds: float) -> None:
        if answer.source in _CACHED:
            self._pacer.free()
        elif answer.finish_reason in UNFINISHED and not answer.text:
            self._pacer.late(seconds)
        else:
            self._pacer.answered(seconds)

    def _show(self, buffer: _Buffer, asked: _Asked, answer: Answer, now: float) -> list[Effect]:
        """Show an answer, unless it has nothing new."""
        old = buffer.shown
        same = old if old is not None and old.request_id == asked.query.request_id else None
        if not answer.text and (same is not None or asked.follow_up):
            return []
        extended = same and same.extended(answer)
        if same is not None and extended is not None:
            buffer.shown = extended
            if extended.rest == same.rest:
                return []
            ended: list[Effect] = []
        else:
            ended = self._end_shown(buffer, OutcomeKind.WITHDRAWN)
            if answer.text:
                buffer.shown = Shown.of(answer, asked.query.request_id, buffer.document.cursor, now - asked.began)
        self._told_ms = self._pacer.hint_ms
        document_id, version = buffer.opened.document_id, buffer.document.version
        return [*ended, Send(Suggestion(document_id, version, asked.query.request_id, answer, self._told_ms))]

    def _withdraw(self, buffer: _Buffer) -> list[Effect]:
        """The text has gone another way than what is shown."""
        shown = buffer.shown
        if shown is None:
            return []
        return [Send(Withdraw(buffer.opened.document_id, shown.request_id)), *self._end_shown(buffer, OutcomeKind.WITHDRAWN)]

    def _end_shown(self, buffer: _Buffer, kind: OutcomeKind) -> list[Effect]:
        shown, buffer.shown = buffer.shown, None
        return [] if shown is None else [Record(shown.outcome(kind, buffer.session_id))]

    def _tell_pace(self) -> list[Effect]:
        if self._pacer.hint_ms == self._told_ms:
            return []
        self._told_ms = self._pacer.hint_ms
        return [Send(Pacing(self._told_ms))]

    def _new_id(self) -> str:
        return f"{self._key}.{next(self._serials)}"
