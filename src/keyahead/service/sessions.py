"""What is known of a session: its newest request, the decode begun for it, what was suggested, what became of that, what was deleted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from cachetools import LRUCache

from keyahead.service.drafting.match import LONGEST
from keyahead.service.drafting.sources import Suggested
from keyahead.service.generation import Generation, Place, Waiter

_MAX_SESSIONS = 4096
_MAX_SUGGESTIONS = 5
"""34 % of new suggestions are at least 80 % covered by one of the developer's last five (data/typing.json's source)."""
_MAX_DELETED = 512
Key = tuple[str, str]
"""Tenant and session id."""


@dataclass(frozen=True, slots=True)
class _Written:
    """The text before a cursor: how long it is, and its end."""

    length: int
    tail: str

    @classmethod
    def of(cls, prefix: str) -> _Written:
        return cls(len(prefix), prefix[-2 * _MAX_DELETED :])

    def deleted(self, prefix: str, already: str) -> str:
        """What was deleted from the end of it to make it `prefix`, with what had been deleted behind it; "" if more has changed."""
        gone = self.length - len(prefix)
        if gone == 0:
            return already
        kept = self.tail[:-gone] if 0 < gone <= _MAX_DELETED else ""
        return (self.tail[-gone:] + already)[:_MAX_DELETED] if kept and prefix.endswith(kept) else ""


@dataclass(slots=True)
class _Session:
    newest: Waiter | None = None
    """While it runs."""
    generation: Generation | None = None
    """While it runs."""
    taken: bool | None = None
    """Whether the user has taken anything of what it gives."""
    suggested: deque[Suggested] = field(default_factory=lambda: deque(maxlen=_MAX_SUGGESTIONS))
    """The newest first."""
    written: _Written = field(default_factory=lambda: _Written(0, ""))
    deleted: str = ""
    """Text deleted before the cursor, in one go."""


class Sessions:
    """The sessions heard of last. An empty session id is no session."""

    def __init__(self) -> None:
        self._sessions: LRUCache[Key, _Session] = LRUCache(_MAX_SESSIONS)
        self._served: dict[Generation, set[Key]] = {}
        """The sessions that a running generation was chosen for."""

    def enter(self, key: Key, prefix: str, waiter: Waiter | None) -> None:
        """A new request, if it has to wait; the session's older one, if it still runs, is told that it is superseded."""
        if not key[1]:
            return
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = _Session()
        if session.newest:
            session.newest.supersede()
        session.deleted = session.written.deleted(prefix, session.deleted)
        session.written = _Written.of(prefix)
        session.newest = waiter

    def leave(self, key: Key, waiter: Waiter) -> None:
        """A request has ended."""
        session = self._sessions.get(key)
        if session is not None and session.newest is waiter:
            session.newest = None

    def choose(self, key: Key, place: Place, chosen: Generation | None) -> None:
        """The newest request is served by `chosen` (None: by the cache). The older generation ends, unless it still agrees with what has
        been typed or a request of another session waits for it.
        """
        session = self._sessions.get(key)
        if session is None:
            return
        older = session.generation
        if older is not None and older is not chosen and not older.wanted and not older.agrees(place):
            older.stop()
        if chosen is not None and not chosen.done and chosen is not older:
            self._remember(session)
            session.generation, session.taken = chosen, None
            self._served.setdefault(chosen, set()).add(key)

    def forget(self, generation: Generation) -> None:
        """A generation has ended; of it, only its text is kept."""
        for key in self._served.pop(generation, ()):
            session = self._sessions.get(key)
            if session is not None and session.generation is generation:
                self._remember(session)
                session.generation, session.taken = None, None

    def settled(self, key: Key, *, taken: bool) -> None:
        """The user has taken some of what was decoded last for the session, or nothing of it."""
        session = self._sessions.get(key)
        if session is None:
            return
        if session.generation:
            session.taken = taken
        elif session.suggested:
            session.suggested[0] = replace(session.suggested[0], taken=taken)

    def suggested(self, key: Key) -> tuple[Suggested, ...]:
        """What has been decoded for the session of late, the newest first."""
        session = self._sessions.get(key)
        if session is None:
            return ()
        running = (_suggested(session.generation, session),) if session.generation else ()
        return (*running, *session.suggested)

    def deleted(self, key: Key) -> str:
        """What the session's user deleted last, if nothing has been typed since."""
        session = self._sessions.get(key)
        return session.deleted if session else ""

    def _remember(self, session: _Session) -> None:
        if session.generation and session.generation.decoding.text:
            session.suggested.appendleft(_suggested(session.generation, session))


def _suggested(generation: Generation, session: _Session) -> Suggested:
    return Suggested(generation.place.prefix[-LONGEST:], generation.decoding.text, session.taken)
