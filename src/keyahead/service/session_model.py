"""The nouns of a session: what its client says, what is said to it, and what its decisions want done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from keyahead.service.documents import Change, Lost, Position
from keyahead.service.model import Answer, Mode, Outcome, OutcomeKind, Query, Trigger
from keyahead.service.positions import Encoding


@dataclass(frozen=True, slots=True)
class Open:
    """A document's whole text and cursor, and how it wants to be completed."""

    document_id: str
    version: int
    query: Query
    """What an Ask here would ask, but for its names."""
    encoding: Encoding = Encoding.UTF16
    ask_on_edit: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """Changes that lead from one version to the next."""

    document_id: str
    base_version: int
    version: int
    changes: tuple[Change, ...]
    cursor: Position | None = None


@dataclass(frozen=True, slots=True)
class MoveCursor:
    """The cursor elsewhere in the same text."""

    document_id: str
    version: int
    cursor: Position


@dataclass(frozen=True, slots=True)
class Ask:
    """A suggestion is wanted at the cursor."""

    document_id: str
    version: int
    trigger: Trigger
    mode: Mode | None
    """None: the document's."""
    request_id: str
    """Empty: made by the session."""


@dataclass(frozen=True, slots=True)
class Settle:
    """What the user did with the suggestion shown."""

    request_id: str
    kind: OutcomeKind
    accepted_chars: int = 0


@dataclass(frozen=True, slots=True)
class Close:
    """The document is not needed any more."""

    document_id: str


Message: TypeAlias = Open | Edit | MoveCursor | Ask | Settle | Close


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Something to show, or nothing if the answer has no text."""

    document_id: str
    version: int
    request_id: str
    answer: Answer
    debounce_ms: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The suggestion shown no longer fits."""

    document_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Resync:
    """The whole text is needed again."""

    document_id: str
    expected_version: int
    reason: Lost


@dataclass(frozen=True, slots=True)
class Pacing:
    """How long a client that asks by itself may wait after a key before it asks."""

    debounce_ms: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A suggestion that could not be made."""

    document_id: str
    request_id: str
    error: Exception


Reply: TypeAlias = Suggestion | Withdraw | Resync | Pacing | Failure


@dataclass(frozen=True, slots=True)
class Send:
    """Tell the client."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Complete:
    """Ask for a suggestion, in place of what this document has asked for before; its answer comes back with the serial number."""

    document_id: str
    serial: int
    query: Query
    seconds: float | None
    """To wait for the answer, if not as long as the server lets its callers wait."""


@dataclass(frozen=True, slots=True)
class Stop:
    """What this document has asked for is not wanted any more."""

    document_id: str


@dataclass(frozen=True, slots=True)
class Warm:
    """Have the engine read this, in place of what it was to read for this session before."""

    document_id: str
    query: Query


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing is wanted for this document any more."""

    document_id: str


@dataclass(frozen=True, slots=True)
class Record:
    """A suggestion's end is known."""

    outcome: Outcome


Effect: TypeAlias = Send | Complete | Stop | Warm | Release | Record
