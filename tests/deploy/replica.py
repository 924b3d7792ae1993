"""A real service whose completer only sleeps, and notes what it was asked: REPLICA=NAME NOTES=FOLDER KEYAHEAD_…=… python replica.py."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import types
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path

from keyahead.service.config import ServiceConfig
from keyahead.service.interceptors import TenantAuth
from keyahead.service.model import Answer, Deadline, EngineUnavailable, FinishReason, Outcome, Query, Show, Source
from keyahead.service.server import run

NAME = os.environ.pop("REPLICA")
NOTES = Path(os.environ.pop("NOTES"))

received: ContextVar[list[str]] = ContextVar("received")


class NotingAuth(TenantAuth):
    """Remembers which metadata came with the call."""

    def tenant_of(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        metadata = list(metadata)
        received.set(sorted(key for key, _ in metadata))
        return super().tenant_of(metadata)


class Completer:
    """Sleeps for as many seconds as the prefix says, and answers who it is; with the suffix "break" it has begun when its engine fails."""

    ready = True

    def at_hand(self, query: Query) -> Answer | None:
        return None

    async def complete(self, query: Query, deadline: Deadline, show: Show) -> Answer:
        note("asked", query.request_id)
        if (NOTES / f"sick-{NAME}").exists():
            raise EngineUnavailable("no engine")
        note("worked", query.request_id)
        if query.suffix == "break":
            await show("begun")
            raise EngineUnavailable("the engine is gone")
        await asyncio.sleep(float(query.prefix[:8]))
        answer = json.dumps({"replica": NAME, "tenant": query.tenant, "received": received.get()})
        return Answer(answer, FinishReason.STOP, Source.ENGINE, 1, 1)

    def warm(self, query: Query) -> None:
        pass

    def cool(self, query: Query) -> None:
        pass

    def outcome(self, tenant: str, outcome: Outcome) -> None:
        pass

    async def aclose(self) -> None:
        pass


def note(what: str, request_id: str) -> None:
    with (NOTES / f"{what}-{NAME}").open("a") as notes:
        notes.write(f"{request_id}\n")


if __name__ == "__main__":
    pipeline = types.ModuleType("keyahead.service.pipeline")
    pipeline.build = lambda *_: Completer()  # type: ignore[attr-defined]
    sys.modules[pipeline.__name__] = pipeline
    sys.modules["keyahead.service.server"].TenantAuth = NotingAuth  # type: ignore[attr-defined]
    run(ServiceConfig.from_environment(os.environ))
