"""The catalogue: its entries are sound, and a wrong one is refused by name and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyahead.engine import catalogue
from keyahead.engine.catalogue import Engine, Layout
from keyahead.engine.store import SetupError

TEXT = Path(catalogue.__file__).with_name("models.toml").read_text(encoding="utf-8")
SMOL = TEXT[TEXT.index('[[model]]\nname = "smollm2-135m"') :]


def test_default_model_comes_first_and_runs_on_a_cpu() -> None:
    """The first entry is the CPU default, pinned, with hub before mirror; a GPU can serve it, too."""
    model = catalogue.get(catalogue.names()[0])
    assert (model.name, model.engines) == ("qwen2.5-coder-0.5b", frozenset(Engine))
    assert [type(source).__name__ for source in model.sources] == ["HubSource", "WheelSource"]
    assert model.pinned


@pytest.mark.parametrize("name", catalogue.names())
def test_what_runs_on_a_cpu_is_pinned(name: str) -> None:
    """No CPU model can be downloaded unverified, and unpinned models say so in their notes."""
    model = catalogue.get(name)
    assert model.pinned or (Engine.CPU not in model.engines and "hash" in model.notes)


@pytest.mark.parametrize("name", catalogue.names())
def test_a_prompt_fits_into_the_context(name: str) -> None:
    """The budgets together leave room to answer, and only a model that can fill in the middle has one for the suffix."""
    model = catalogue.get(name)
    assert model.budgets.prefix + model.budgets.suffix + model.budgets.context < model.context_tokens
    assert bool(model.budgets.suffix) == (model.layout is Layout.SUFFIX_PREFIX_MIDDLE_HEALED)


def test_an_unknown_name_lists_the_known_ones() -> None:
    """Who mistypes a name is told which there are."""
    with pytest.raises(SetupError, match=r"no model named 'qwen'.*qwen2\.5-coder-0\.5b.*smollm2-135m"):
        catalogue.get("qwen")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("layers = 30", "", "`layers`"),
        ("layers = 30", 'layers = "30"', r"`int`.*\$\.layers"),
        ("layers = 30", "layers = 0", r">= 1.*\$\.layers"),
        ("layers = 30", "layers = 30\nlayer = 1", "`layer`"),
        ('architecture = "llama"', 'architecture = "gpt9"', r"'gpt9'.*\$\.architecture"),
        ("==0.1.2", ">=0.1.2", r"\$\.sources\[0\]\.packages"),
        ('kind = "wheels"', 'kind = "torrent"', r"'torrent'.*\$\.sources\[0\]\.kind"),
        ("size_bytes = 98362432", "size_bytes = 0", "`size_bytes`"),
        ("b179c952", "B179C952", r"\$\.sha256"),
        ('layout = "prefix-healed"', 'layout = "suffix-prefix-middle-healed"', "`layout`"),
    ],
)
def test_a_wrong_entry_is_refused_by_name_and_field(old: str, new: str, complaint: str) -> None:
    """Whatever is wrong with an entry, the error names the entry and the field."""
    assert old in SMOL
    with pytest.raises(SetupError, match=f"(?s)smollm2-135m.*{complaint}"):
        catalogue.parse(SMOL.replace(old, new))


def test_a_name_is_used_once() -> None:
    """Two entries of one name are refused: one of them would be lost."""
    with pytest.raises(SetupError, match="two entries named smollm2-135m"):
        catalogue.parse(SMOL + SMOL)
