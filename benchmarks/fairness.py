"""One tenant floods, another types: what the typist notices of it.

Pipeline and engine in this process, on the real default model. The same keys at the same moments are typed alone and beside a flood of
distinct cold prompts from another tenant, in turns, each time by a new tenant, so that nothing is warm from the time before.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from common import SEED, Engine, Figure, arguments, library, model_folder, report_figures, running_engine

from keyahead.cache import CacheSettings, open_cache
from keyahead.cli.infilling import percentile
from keyahead.engine.contract import EngineRequest, EngineResponse
from keyahead.engine.cpu.sequence import Sequence
from keyahead.service import fleet
from keyahead.service.config import ServiceConfig
from keyahead.service.engine_client import EngineError
from keyahead.service.metrics import Metrics
from keyahead.service.model import Deadline, Overloaded, Query, Source, Superseded, Trigger
from keyahead.service.pipeline import Pipeline

BUDGET_S = 0.16
"""The service's default for an automatic request."""
FLOOD_PER_S = 40.0
FLOOD_FIRST_S = 3.0
"""The flood is there before the typist comes."""
KEYS = 60
MEDIAN_GAP_S = 0.2
"""Between keys, log-normal with sigma 0.5: a burst of typing (data/typing.json)."""
LINES_BEFORE = 60
PATIENCE_S = 20.0


class LocalDecode:
    """One request at the engine of this process, as the service's client would show it."""

    def __init__(self, engine: Engine, request: EngineRequest) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._responses: asyncio.Queue[EngineResponse | Exception | None] = asyncio.Queue()
        self._sequence: Sequence = engine.loop.submit(request, self)

    def send(self, response: EngineResponse, *, final: bool) -> None:
        """New tokens, on the engine's thread."""
        self._put(response)
        if final:
            self._put(None)

    def fail(self, message: str) -> None:
        """The end without a result."""
        self._put(Overloaded("full", 1.0) if message.startswith("RESOURCE_EXHAUSTED") else EngineError(message))

    def is_cancelled(self) -> bool:
        """Never by leaving."""
        return False

    def stop(self) -> None:
        """Within a step."""
        self._engine.loop.cancel(self._sequence)
        self._responses.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[EngineResponse]:
        while (item := await self._responses.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def _put(self, item: EngineResponse | Exception | None) -> None:
        self._loop.call_soon_threadsafe(self._responses.put_nowait, item)


@dataclass
class LocalEngine:
    """The engine client's part that the pipeline uses."""

    engine: Engine
    ready: bool = True

    def decode(self, request: EngineRequest) -> LocalDecode:
        """Queue a request."""
        return LocalDecode(self.engine, request)

    def start(self) -> None:
        """Nothing to connect to."""

    async def aclose(self) -> None:
        """Nothing to close."""


@dataclass
class Seen:
    """What a tenant got."""

    seconds: list[float] = field(default_factory=list)
    engine_seconds: list[float] = field(default_factory=list)
    """Of those that the engine answered."""
    chars: list[int] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, other: Seen) -> None:
        """Take another's in."""
        self.seconds += other.seconds
        self.engine_seconds += other.engine_seconds
        self.chars += other.chars
        self.outcomes += other.outcomes

    @property
    def answered(self) -> float:
        """Part of the answers that have text."""
        return sum(count > 0 for count in self.chars) / len(self.chars)


async def ignore(_: str) -> None:
    """Nobody looks at what is shown while it is decoded."""


async def ask(pipeline: Pipeline, query: Query, seconds: float, seen: Seen) -> None:
    """One request, as the server would make it."""
    begin = time.monotonic()
    try:
        answer = pipeline.at_hand(query) or await pipeline.complete(query, Deadline.after(seconds), ignore)
        seen.seconds.append(time.monotonic() - begin)
        seen.engine_seconds += seen.seconds[-1:] if answer.source in {Source.ENGINE, Source.IN_FLIGHT} else []
        seen.chars.append(len(answer.text))
        seen.outcomes[answer.finish_reason.value if answer.text else "empty"] += 1
    except Superseded:
        seen.outcomes["superseded"] += 1
    except Overloaded:
        seen.outcomes["refused"] += 1


async def type_keys(pipeline: Pipeline, tenant: str, number: int) -> Seen:
    """A session: its prompt is read first, then every key asks."""
    chance = random.Random(SEED + number)  # noqa: S311 - moments, not secrets
    text = library()[3 + number].read_text()
    lines = text.splitlines(keepends=True)
    at = len("".join(lines[: min(LINES_BEFORE, len(lines) // 2)]))
    rest = text[at + 2 * KEYS :]
    query = Query(text[:at], rest, path="a.py", tenant=tenant, session_id="s")
    await ask(pipeline, query._replace(trigger=Trigger.MANUAL), PATIENCE_S, Seen())
    seen = Seen()
    calls = []
    for key in range(KEYS):
        await asyncio.sleep(min(1.0, chance.lognormvariate(0.0, 0.5) * MEDIAN_GAP_S))
        typed = query._replace(prefix=text[: at + key + 1])
        calls.append(asyncio.create_task(ask(pipeline, typed, BUDGET_S, seen)))
    await asyncio.gather(*calls)
    return seen


async def flood(pipeline: Pipeline, tenant: str, seen: Seen) -> None:
    """Cold prompts without end."""
    chance = random.Random(f"{SEED} {tenant}")  # noqa: S311
    files = [path.read_text() for path in library()]
    async with asyncio.TaskGroup() as group:
        while True:
            text = chance.choice(files)
            at = chance.randrange(len(text) // 2, len(text))
            query = Query(text[:at], text[at + 40 :], path="b.py", tenant=tenant)
            group.create_task(ask(pipeline, query, BUDGET_S, seen))
            await asyncio.sleep(1 / FLOOD_PER_S)


async def measure(engine: Engine, rounds: int) -> tuple[Seen, Seen, Seen]:
    """The typist alone, the typist beside the flood, and the flood."""
    metrics = Metrics()
    config = ServiceConfig(model_folder=model_folder(engine.model))
    known = fleet.Engine.of(LocalEngine(engine), engine.builder, config.engine_places, metrics)  # type: ignore[arg-type]
    engines = fleet.Fleet([config.triton_address], lambda _: known)
    engines.start()
    pipeline = Pipeline(config, engine.model, engine.tokenizer, engines, open_cache(CacheSettings()), metrics)
    alone, beside, flooding = Seen(), Seen(), Seen()
    for number in range(rounds):
        alone.add(await type_keys(pipeline, f"alone{number}", number))
        task = asyncio.create_task(flood(pipeline, "flood", flooding))
        await asyncio.sleep(FLOOD_FIRST_S)
        beside.add(await type_keys(pipeline, f"beside{number}", number))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await pipeline.aclose()
    return alone, beside, flooding


def figures(engine: Engine, alone: Seen, beside: Seen, flooding: Seen) -> list[Figure]:
    """Ratios to the typist alone."""
    p99 = [percentile(sorted(seen.seconds), 0.99) * 1e3 for seen in (alone, beside)]
    p50 = [percentile(sorted(seen.engine_seconds), 0.5) * 1e3 for seen in (alone, beside)]
    counters = engine.loop.counters
    cancelled = max(1, sum(counters.cancelled_in.values()))
    asked = sum(flooding.outcomes.values())
    return [
        Figure("p99", f"typist's p99 beside a flood ({p99[1]:.0f} ms)", p99[1] / p99[0], "times", f"alone: {p99[0]:.0f} ms", at_most=1.3),
        Figure("p50", f"p50 of the engine's answers ({p50[1]:.0f} ms)", p50[1] / p50[0], "times", f"alone: {p50[0]:.0f} ms"),
        Figure(
            "answered",
            f"answers with text ({beside.answered:.0%})",
            beside.answered / alone.answered,
            "times",
            f"alone: {alone.answered:.0%}",
        ),
        Figure(
            "chars",
            f"characters of an answer ({statistics.mean(beside.chars):.1f})",
            statistics.mean(beside.chars) / statistics.mean(alone.chars),
            "times",
            f"alone: {statistics.mean(alone.chars):.1f}",
        ),
        Figure("flood_refused", f"of the flood's {asked} requests refused", flooding.outcomes["refused"] / asked, "part"),
        Figure("flood_empty", "answered with nothing", flooding.outcomes["empty"] / asked, "part"),
        Figure("after_cancel", f"tokens computed after a cancel, {cancelled} cancels", counters.tokens_after_cancel / cancelled, "tokens"),
    ]


def main() -> None:
    options = arguments(__doc__, limit=4)
    with running_engine() as engine:
        measured = asyncio.run(measure(engine, options.limit))
        print(*(dict(seen.outcomes) for seen in measured), sep="\n")
        report_figures("A flooding tenant", figures(engine, *measured), as_json=options.json)


if __name__ == "__main__":
    main()
