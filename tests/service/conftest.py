"""A pipeline over a scripted engine: deterministic tokens with a delay, for unit tests only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keyahead.cache import CacheSettings, PrefixCache, open_cache
from keyahead.engine import catalogue
from keyahead.engine.contract import EngineRequest, EngineResponse
from keyahead.engine.tokenizer import Tokenizer
from keyahead.service.adapters import TenantAdapters
from keyahead.service.config import ServiceConfig
from keyahead.service.engine_client import EngineError
from keyahead.service.fleet import Engine, Fleet
from keyahead.service.metrics import Metrics
from keyahead.service.model import EngineUnavailable
from keyahead.service.pipeline import Pipeline
from keyahead.service.prompt import PromptBuilder
from tests.service.asking import TEXT


@dataclass(eq=False)
class ScriptedDecode:
    """One request to the scripted engine."""

    engine: ScriptedEngine
    request: EngineRequest
    stopped: bool = False
    ended: bool = False
    num_sent: int = 0

    async def __aiter__(self) -> AsyncIterator[EngineResponse]:
        began = time.monotonic()
        try:
            for tokens in self.engine.steps(self.request):
                await asyncio.sleep(self.engine.seconds_per_token)
                if self.engine.refusal is not None:
                    raise self.engine.refusal
                if self.request.deadline_ms is not None and time.monotonic() - began > self.request.deadline_ms / 1e3:
                    raise EngineError("DEADLINE_EXCEEDED: deadline_ms passed")
                if self.engine.dead:
                    raise EngineUnavailable("the engine is gone")
                if self.stopped:
                    return
                self.num_sent += 1
                yield EngineResponse(tokens, (-0.1,) * len(tokens) if self.request.return_log_probs else None)
        finally:
            self.ended = True

    def stop(self) -> None:
        self.stopped = True


@dataclass(eq=False)
class ScriptedEngine:
    """Decodes a document it knows by heart: whatever prompt ends in a part of it is continued from there."""

    tokenizer: Tokenizer
    text: str = ""
    seconds_per_token: float = 0.0
    dead: bool = False
    refusal: Exception | None = None
    ready: bool = True
    decodes: list[ScriptedDecode] = field(default_factory=list)

    def decode(self, request: EngineRequest) -> ScriptedDecode:
        if self.dead:
            raise EngineUnavailable("the engine is gone")
        self.decodes.append(ScriptedDecode(self, request))
        return self.decodes[-1]

    def continuation(self, request: EngineRequest) -> list[int]:
        prompt = self.tokenizer.decode(request.input_ids)
        at = self.text.find(prompt[-40:]) + len(prompt[-40:])
        tokens = self.tokenizer.encode(self.text[at:])
        if request.embedding_bias is not None and request.embedding_bias[tokens[0]] < 0:
            tokens = [int(request.embedding_bias.argmax())]
        stops = {word[0] for word in request.stop_words}
        end = next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))
        return tokens[: min(end, request.max_new_tokens)]

    def steps(self, request: EngineRequest) -> list[tuple[int, ...]]:
        """What each step gives; a request with drafts is one, which ends behind the first draft that is wrong."""
        tokens = self.continuation(request)
        if not request.draft_ids:
            return [(token,) for token in tokens]
        right = next((i for i, (a, b) in enumerate(zip(request.draft_ids, tokens, strict=False)) if a != b), len(request.draft_ids))
        return [tuple(tokens[: right + 1])]

    def start(self) -> None:
        pass

    async def aclose(self) -> None:
        self.dead = True


@pytest.fixture(scope="session")
def tokenizer(smol_folder: Path) -> Tokenizer:
    """The small model's."""
    return Tokenizer.load(smol_folder)


MakePipeline = Callable[..., Pipeline]


@pytest.fixture(scope="session")
def make_pipeline(tokenizer: Tokenizer, smol_folder: Path) -> MakePipeline:
    """A pipeline for some engines, with a cache of its own unless one is given; to be called on the event loop."""

    def make(*scripted: ScriptedEngine, cache: PrefixCache | None = None, adapters: TenantAdapters | None = None) -> Pipeline:
        model, config, metrics = catalogue.get("smollm2-135m"), ServiceConfig(model_folder=smol_folder), Metrics()
        engines = {f"127.0.0.1:{number}": each for number, each in enumerate(scripted, start=1)}
        builder = PromptBuilder(model, tokenizer)
        fleet = Fleet(list(engines), lambda address: Engine.of(engines[address], builder, config.engine_places, metrics))  # type: ignore[arg-type]
        fleet.start()
        return Pipeline(config, model, tokenizer, fleet, cache or open_cache(CacheSettings()), metrics, adapters)

    return make


@pytest.fixture
def run(make_pipeline: MakePipeline, tokenizer: Tokenizer) -> Callable[..., None]:
    """Runs a coroutine with a fresh pipeline and engine, and checks that nothing is left running."""

    def runner(check: Callable[[Pipeline, ScriptedEngine], Coroutine[Any, Any, None]], **engine: Any) -> None:
        async def main() -> None:
            scripted = ScriptedEngine(tokenizer, TEXT, **engine)
            pipeline = make_pipeline(scripted)
            await check(pipeline, scripted)
            await asyncio.sleep(0.05)
            await pipeline.aclose()
            assert not pipeline._generations._running
            assert all(decode.ended or not decode.num_sent for decode in scripted.decodes)
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(main())

    return runner
