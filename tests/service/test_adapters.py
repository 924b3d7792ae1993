"""The operator's file of adapters: who has which, and what is wrong in it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from keyahead.cache import CacheSettings, open_cache
from keyahead.engine.adapters import Adapter
from keyahead.engine.store import SetupError
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.adapters import TenantAdapters, open_adapters
from keyahead.service.config import ServiceConfig
from keyahead.service.interceptors import InFlightLimit
from keyahead.service.metrics import Metrics
from keyahead.service.model import Source
from keyahead.service.server import Autocomplete
from tests import peft
from tests.service.asking import TEXT, ask, query
from tests.service.conftest import MakePipeline, ScriptedEngine

MODULES = {"mlp.down_proj": peft.SMOL["mlp.down_proj"]}


def opened(folder: Path, text: str) -> TenantAdapters:
    (folder / "adapters").write_text(text)
    return open_adapters(ServiceConfig(model_folder=folder, model_name="smollm2-135m", adapters_file=folder / "adapters"))


def test_each_tenant_has_its_own(tmp_path: Path) -> None:
    """Folders are beside the file unless absolute; a user has the tenant's; who is not named has none."""
    for seed in (1, 2):
        peft.save(tmp_path / str(seed), peft.matrices(seed, layers=(0,), modules=MODULES))
    found = opened(tmp_path, f"# ours\nacme: 1\n\nother:{tmp_path / '2'}\nthird:1\n")
    assert found.of("acme") is found.of("acme/ann") is found.of("third")
    assert len({found.fingerprint(owner) for owner in ("acme", "other", "nobody")}) == 3
    adapter = found.of("other")
    assert adapter is not None
    assert found.version("other") == f"+{adapter.digest[:12]}"
    assert (found.of("nobody"), found.version("nobody"), found.fingerprint("nobody")) == (None, "", "")


def test_without_a_file_nobody_has_one(tmp_path: Path) -> None:
    """The model as it is."""
    assert open_adapters(ServiceConfig(model_folder=tmp_path)).of("default") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("acme", r"adapters_file \(KEYAHEAD_ADAPTERS_FILE\) line 1 must be tenant:FOLDER"),
        ("a:1\n:1", "line 2 must be"),
        ("acme/ann:1", "line 1 must be"),
        ("acme:1\nacme:1", "gives acme two adapters"),
        ("acme:nowhere", "nowhere.*cannot be read"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    """With its number and the cure."""
    peft.save(tmp_path / "1", peft.matrices(1, layers=(0,), modules=MODULES))
    with pytest.raises(SetupError, match=complaint):
        opened(tmp_path, text)


def random_adapter(digest: str) -> Adapter:
    return Adapter(digest * 32, 1, frozenset({"q_proj"}), np.ones((1, 8), np.float16).tobytes(), np.array([[1, 0, 1]], np.int32))


def test_another_adapter_finds_nothing_of_the_first_ones_answers(tokenizer: Tokenizer, make_pipeline: MakePipeline) -> None:
    """With one cache: the same request is decoded again for another version of the tenant's adapter, and for the model without one."""

    async def main() -> list[Source]:
        cache, sources = open_cache(CacheSettings()), []
        for digest in ("ab", "ab", "cd", None, "cd"):
            adapters = TenantAdapters({"acme": random_adapter(digest)} if digest else {})
            pipeline = make_pipeline(ScriptedEngine(tokenizer, TEXT), cache=cache, adapters=adapters)
            sources.append((await ask(pipeline, query(tenant="acme"))).source)
            await asyncio.sleep(0.05)
            await pipeline._fleet.aclose()
            await pipeline._generations.aclose()
        await cache.aclose()
        return sources

    engine, memory = Source.ENGINE, Source.MEMORY
    assert asyncio.run(main()) == [engine, memory, engine, engine, memory]


def test_an_answers_version_names_the_adapter(tmp_path: Path) -> None:
    """Behind that of the model, for the tenants that have one."""
    config = ServiceConfig(model_folder=tmp_path, model_name="smollm2-135m", model_version="0123456789ab")
    adapters = TenantAdapters({"acme": random_adapter("cd")})
    service = Autocomplete(config, None, Metrics(), InFlightLimit(1, 1, Metrics()), adapters)  # type: ignore[arg-type]
    assert service._model_of("acme").version == "0123456789ab+cdcdcdcdcdcd"
    assert service._model_of("other").version == "0123456789ab"
