"""A plugin's side of a `Session` stream: what it sends for what the person does, and what replies say of its questions. Knows no network.

Every key is sent as an edit and the service suggests by itself. Which key a reply belongs to, and what there is to see after a key, is
known here by the rules of `autocomplete.proto`:

- A key that types what the suggestion begins with keeps it, shortened; the service then says nothing. So the key is answered at once, with
  what is left of it.
- Any other key is a question until a suggestion comes for it, or the next key.
- A suggestion for an older text is worth what is left of it behind what has been typed since; if the two do not agree it is dropped.
- More of a suggestion may come later by itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from keyahead.loadtest import rpc
from keyahead.loadtest.judge import Answer, Ask, Failed, num_common
from keyahead.loadtest.texts import Passage
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb

KEPT = "kept"
"""The source of an answer that was on the screen already: nobody was asked."""
_VERSIONS = 16
"""Of the text that are remembered for late suggestions: a second of the fastest typing, and more than the service lets an answer wait."""


@dataclass(frozen=True, slots=True)
class _Shown:
    request_id: str
    rest: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What the person's last act leads to."""

    messages: list[pb.SessionRequest]
    superseded: Ask | None = None
    """The question that nobody will answer any more."""
    kept: Answer | None = None
    """The answer, if the suggestion on the screen is still right."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a reply says of the newest question."""

    ask: Ask
    answer: Answer | Failed
    is_more: bool = False
    """Whether the question has been answered before."""


class Editor:
    """One window with one file open, on one stream after another."""

    def __init__(self) -> None:
        self._passage: Passage | None = None
        """None where the stream knows no document, or not the one we have."""
        self._written = ""
        self._document, self._version = 0, 0
        self._texts: deque[tuple[int, str]] = deque(maxlen=_VERSIONS)
        """What was written in the passage, by version."""
        self._newest: Ask | None = None
        """The question of the last key in this passage."""
        self._open = False
        """Whether it has no answer yet."""
        self._shown: _Shown | None = None

    def act(self, passage: Passage, written: str, ask: Ask | None, *, took: bool = False) -> Sent:
        """The person has hit a key, or taken what is shown, so that this much of the passage is written; `ask` is the question, if any."""
        if passage is self._passage and written == self._written:
            return Sent([])
        superseded = self._newest if self._open else None
        if passage is not self._passage:
            return Sent(self._go(passage, written, ask), superseded)
        messages = [pb.SessionRequest(accept=pb.Accept(request_id=self._shown.request_id))] if took and self._shown else []
        messages.append(self._edit(written))
        self._shown = None if took else self._typed_on(written)
        self._write(written)
        self._newest, self._open = ask, ask is not None and not self._shown
        return Sent(messages, superseded, Answer(self._shown.rest, KEPT) if self._shown else None)

    def hear(self, reply: pb.SessionResponse) -> Heard | None:
        """The service has said something; None if it is nothing about the newest question."""
        match reply.WhichOneof("message"):
            case "suggestion":
                return self._suggested(reply.suggestion)
            case "failure" if reply.failure.document_id == self._name:
                return self._failed(reply.failure.reason)
            case "resync" if reply.resync.document_id == self._name:
                return self.lost(pb.ResyncReason.Name(reply.resync.reason))
            case _:  # A Withdraw tells what the key has told already; Pacing is for those who ask by themselves.
                return None

    def lost(self, code: str) -> Heard | None:
        """The stream or its text is gone: the next key opens the file again."""
        self._passage, self._shown = None, None
        return self._failed(code)

    @property
    def _name(self) -> str:
        return str(self._document)

    def _go(self, passage: Passage, written: str, ask: Ask | None) -> list[pb.SessionRequest]:
        """To another place: what is shown is dismissed, and the file there opened if it is another one."""
        messages = [pb.SessionRequest(reject=pb.Reject(request_id=self._shown.request_id))] if self._shown else []
        before, self._passage = self._passage, passage
        if before and before.path == passage.path and _text(before, self._written) == _text(passage, written):
            cursor = _position(passage, written)
            messages.append(pb.SessionRequest(move_cursor=pb.MoveCursor(document_id=self._name, version=self._version, cursor=cursor)))
        else:
            if before:
                messages.append(pb.SessionRequest(close=pb.Close(document_id=self._name)))
            self._document += 1
            self._version += 1
            messages.append(pb.SessionRequest(open=self._opened(passage, written)))
        if ask:
            messages.append(pb.SessionRequest(ask=pb.Ask(document_id=self._name, version=self._version)))
        self._texts.clear()
        self._texts.append((self._version, written))
        self._written, self._shown, self._newest, self._open = written, None, ask, ask is not None
        return messages

    def _opened(self, passage: Passage, written: str) -> pb.Open:
        text = pb.SplitText(prefix=passage.before + written, suffix=passage.after)
        document = pb.Document(path=passage.path, language=passage.language, split=text)
        units = pb.POSITION_ENCODING_UTF32
        return pb.Open(document_id=self._name, version=self._version, document=document, encoding=units, ask_on_edit=True)

    def _edit(self, written: str) -> pb.SessionRequest:
        assert self._passage  # noqa: S101  # else there would be nothing to edit
        kept = written[: num_common(self._written, written)]
        place = pb.Range(start=_position(self._passage, kept), end=_position(self._passage, self._written))
        change = pb.Change(range=place, text=written[len(kept) :])
        edit = pb.Edit(document_id=self._name, base_version=self._version, version=self._version + 1, changes=[change])
        return pb.SessionRequest(edit=edit)

    def _write(self, written: str) -> None:
        self._version += 1
        self._written = written
        self._texts.append((self._version, written))

    def _typed_on(self, written: str) -> _Shown | None:
        """What is left of the suggestion after a key; None if it has gone another way, or nothing is left."""
        shown, typed = self._shown, written[len(self._written) :]
        if not shown or not written.startswith(self._written) or not shown.rest.startswith(typed):
            return None
        return _Shown(shown.request_id, shown.rest[len(typed) :]) if len(shown.rest) > len(typed) else None

    def _suggested(self, suggestion: pb.Suggestion) -> Heard | None:
        then = next((text for version, text in self._texts if version == suggestion.version), None)
        if suggestion.document_id != self._name or not self._newest or then is None or not self._written.startswith(then):
            return None
        since, text = self._written[len(then) :], suggestion.completion.text
        rest = text[len(since) :]
        if since and not (rest and text.startswith(since)):
            return None
        is_more, self._open = not self._open, False
        self._shown = _Shown(suggestion.completion.request_id, rest) if rest else None
        return Heard(self._newest, replace(rpc.answer(suggestion.completion), text=rest), is_more)

    def _failed(self, code: str) -> Heard | None:
        if not self._newest or not self._open:
            return None
        self._open = False
        return Heard(self._newest, Failed(code))


def _text(passage: Passage, written: str) -> str:
    return passage.before + written + passage.after


def _position(passage: Passage, written: str) -> pb.Position:
    """Where the cursor stands behind what is written, in code points."""
    before = passage.before + written
    return pb.Position(line=before.count("\n"), character=len(before) - before.rfind("\n") - 1)
