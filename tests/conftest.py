"""What tests of several folders share: real converted models, from the user's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyahead.engine import catalogue, fetch, store
from keyahead.engine.cpu import convert


def _converted(name: str) -> Path:
    model = catalogue.get(name)
    progress = store.RichProgress()
    return convert.convert(model, fetch.fetch(model, progress=progress), progress)


@pytest.fixture(scope="session")
def qwen_folder() -> Path:
    """The default model, converted."""
    return _converted("qwen2.5-coder-0.5b")


@pytest.fixture(scope="session")
def smol_folder() -> Path:
    """A small model for quick engine tests, converted."""
    return _converted("smollm2-135m")
