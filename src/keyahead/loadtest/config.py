"""What a run is: which system is asked, by how many people, typing what, for how long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from keyahead.loadtest.shape import Phase, Shape, phases
from keyahead.loadtest.texts import Source, from_folder, from_git


class Kind(StrEnum):
    """Whose API it is."""

    KEYAHEAD = "keyahead"
    OPENAI = "openai"
    """POST …/completions with prompt and suffix."""
    CHAT = "chat"
    """POST …/chat/completions, asked in words."""
    LLAMA = "llama"
    """llama-server's /infill, as llama.vim asks it."""
    VLLM = "vllm"
    """POST …/completions with the document in the prompt, between Qwen's markers, since vLLM takes no suffix."""


class Via(StrEnum):
    """How keyahead is asked."""

    CALLS = "calls"
    """A Complete for each key."""
    SESSION = "session"
    """A Session stream for each typist: keys as edits, suggestions as they come."""


@dataclass(frozen=True, slots=True)
class Target:
    """A system to ask."""

    kind: Kind
    address: str
    """host:port, or for all but keyahead the URL before the method's name, such as http://127.0.0.1:8012 or https://example.com/v1."""
    name: str
    """What it is called in what is shown."""
    model: str = ""
    """What an API wants to be told."""
    simulated: bool = False
    """Not the real thing: shown wherever it is."""
    via: Via = Via.CALLS


@dataclass(frozen=True, slots=True)
class Config:
    """What a run is. Equal configs but for the target give the same keys."""

    target: Target
    typists: int
    duration_s: float
    shape: Shape = Shape.STEADY
    seed: int = 0
    texts: str = ""
    """A folder; empty means the standard library."""
    git: bool = False
    """Whether `texts` is a repository, whose history is typed."""
    repeat: bool = False
    """Whether a file may be typed again when all are used up."""
    takes: bool = False
    """Whether suggestions are taken; then each system has keys of its own."""
    run_id: str = "run"
    shards: int = 1
    """Processes that share the typists."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Config:
        """The config that `dataclasses.asdict` made the values of."""
        named = values["target"]
        target = Target(**{**named, "kind": Kind(named["kind"]), "via": Via(named["via"])})
        return cls(**{**values, "target": target, "shape": Shape(values["shape"])})

    def phases(self) -> tuple[Phase, ...]:
        """The parts of the run."""
        return phases(self.shape, self.typists, self.duration_s)

    def sources(self) -> list[Source]:
        """What is typed. Raises TextError."""
        return from_git(Path(self.texts)) if self.git else from_folder(Path(self.texts) if self.texts else None)
