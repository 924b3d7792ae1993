"""The nouns of the service: what is asked, what is answered, and by when."""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from keyahead.engine.contract import WorkClass


class Mode(enum.StrEnum):
    """How much to complete."""

    AUTO = "auto"
    SINGLE_LINE = "single_line"
    BLOCK = "block"


class Trigger(enum.StrEnum):
    """Who asked: the editor while its user typed, or the user by hand."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


class FinishReason(enum.StrEnum):
    """Why the suggestion ends where it does."""

    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"
    PARTIAL = "partial"
    WITHHELD = "withheld"


class Source(enum.StrEnum):
    """Where the suggestion came from."""

    ENGINE = "engine"
    IN_FLIGHT = "in_flight"
    MEMORY = "memory"
    REDIS = "redis"


@dataclass(frozen=True, slots=True)
class ContextFile:
    """Another file of the same project."""

    path: str
    text: str


class Query(NamedTuple):
    """One validated completion request; text is cut at the cursor."""

    prefix: str
    suffix: str
    path: str = ""
    language: str = ""
    context: tuple[ContextFile, ...] = ()
    mode: Mode = Mode.AUTO
    trigger: Trigger = Trigger.AUTOMATIC
    tenant: str = "default"
    session_id: str = ""
    request_id: str = ""
    max_tokens: int = 0
    """Upper limit of tokens to decode; 0 means the server's default."""
    streamed: bool = False
    """Whether text is shown while it is decoded."""
    deleted: str = ""
    """Text deleted from the document lately, where it is known: it may come back."""
    home: str = ""
    """What stays the same for an editor's buffer where the session id does not: a stream that is opened again has another one."""

    @property
    def patient(self) -> bool:
        """Whether the whole suggestion is worth waiting for until the deadline."""
        return self.streamed or self.trigger is Trigger.MANUAL

    @property
    def work_class(self) -> WorkClass:
        """As what an engine works on it."""
        return WorkClass.MANUAL if self.trigger is Trigger.MANUAL else WorkClass.AUTOMATIC


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which something must have happened."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment so many seconds from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left; negative when it has passed."""
        return self.at - time.monotonic()


@dataclass(slots=True)
class Timings:
    """Milliseconds spent by stage; names and meaning as in the proto's StageTimings."""

    admit: float = 0.0
    cache: float = 0.0
    prompt: float = 0.0
    first_token: float = 0.0
    decode: float = 0.0
    trim: float = 0.0
    total: float = 0.0


Show: TypeAlias = Callable[[str], Awaitable[None]]
"""Takes ghost text to append, while a suggestion is still being decoded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole suggestion."""

    text: str
    finish_reason: FinishReason
    source: Source
    prompt_tokens: int
    completion_tokens: int
    timings: Timings = field(default_factory=Timings)
    p_accept: float = 0.0
    """See `confidence.py`."""


class OutcomeKind(enum.Enum):
    """What became of a suggestion that was shown."""

    ACCEPTED = "accepted"
    """All of it came into the text, taken or typed."""
    PARTIAL = "partial"
    """Its beginning was taken."""
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    """The user typed something else, left, or was shown another one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a suggestion; one for each, at its end, and without its text."""

    kind: OutcomeKind
    request_id: str
    session_id: str
    shown_chars: int
    accepted_chars: int
    source: Source
    latency_ms: float
    """From asking to the first text shown."""


class Superseded(Exception):
    """A newer request of the same session has taken this one's place (ABORTED)."""


class EngineUnavailable(Exception):
    """The engine cannot be reached or died while it worked on this request (UNAVAILABLE)."""


class Overloaded(Exception):
    """Refused on arrival because it could not be answered in time (RESOURCE_EXHAUSTED)."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
