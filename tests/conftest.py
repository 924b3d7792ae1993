"""What tests of several folders share: real converted models and programs of Debian, from the user's cache."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyahead.engine import catalogue, fetch, store
from keyahead.engine.cpu import convert
from keyahead.stack import debs
from tests.browser import Browser, install


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the contract tests find an engine; without it they start the CPU engine."""
    parser.addoption("--endpoint", default=os.environ.get("CONTRACT_ENDPOINT", ""), help="host:port of a Triton that serves an engine")
    parser.addoption("--endpoint-model", default="qwen2.5-coder-1.5b", help="the catalogue's name of the model served there")


def pytest_configure() -> None:
    """A shell starts its background jobs with SIGINT and `nohup` with SIGHUP ignored, which programs under test would inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """A folder with Debian's `prometheus` and `promtool`, which link to the C library alone."""
    cure = "go online once, or fetch Debian's package prometheus"
    return debs.unpacked("prometheus", alone=True, offline=False, cure=cure, progress=store.RichProgress()) / "usr" / "bin"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, with the page of whoever used it last."""
    with Browser(install(), tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
