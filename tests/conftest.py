"""What tests of several folders share: real converted models, from the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keyahead.engine import catalogue, fetch, store
from keyahead.engine.cpu import convert


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the contract tests find an engine; without it they start the CPU engine."""
    parser.addoption("--endpoint", default=os.environ.get("CONTRACT_ENDPOINT", ""), help="host:port of a Triton that serves an engine")
    parser.addoption("--endpoint-model", default="qwen2.5-coder-1.5b", help="the catalogue's name of the model served there")


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
