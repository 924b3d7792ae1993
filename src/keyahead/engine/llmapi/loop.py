"""The thread that talks to the LLM API, and the one that talks to clients, since sending waits for Triton."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from keyahead.engine.contract import ContractError, EngineRequest, EngineResponse
from keyahead.engine.llmapi.answers import Reader
from keyahead.engine.llmapi.sampling import Limits, settings

log = logging.getLogger(__name__)

WATCH_PERIOD_S = 0.1
"""How often clients that hung up are looked for; one that is still there sends a stop, which needs no looking."""
CLOSE_S = 30.0


class Client(Protocol):
    """Who asked; called on one thread, and may block it."""

    def send(self, response: EngineResponse, *, final: bool) -> None:
        """New tokens; the last response of a request is final."""

    def fail(self, message: str) -> None:
        """The request ended without a result."""

    def is_cancelled(self) -> bool:
        """Whether the client is gone."""


class Model(Protocol):
    """What the loop needs of `runtime.Llm`."""

    def generate(self, ids: tuple[int, ...], settings: dict[str, Any], *, streaming: bool, salt: str | None) -> Any:
        """Begin to decode."""

    def close(self) -> None:
        """Unload."""


@dataclass(eq=False)
class Job:
    """One request."""

    request: EngineRequest
    client: Client
    settings: dict[str, Any]
    until: float | None
    """On the event loop's clock."""
    task: asyncio.Task[None] | None = None
    answered: bool = False
    """Whether its last response has been sent; only the clients' thread looks."""


class LlmLoop:
    """Serves requests with one model. `submit` and `cancel` may be called from any thread."""

    def __init__(self, model: Model, limits: Limits, crash: type[Exception], on_crash: Callable[[], None]) -> None:
        """Start the threads; `on_crash` is called, when all clients have been told, if the model raises `crash`."""
        self._model, self._limits, self._crash, self._on_crash = model, limits, crash, on_crash
        self._jobs: set[Job] = set()
        self._closing = False
        self._clients = ThreadPoolExecutor(1, "clients")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="llm", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest, client: Client) -> Job:
        """Queue a request; the job is its handle. ContractError for one that can never be served or whose deadline has passed."""
        if request.deadline_ms is not None and request.deadline_ms <= 0:
            raise ContractError("deadline_ms: already past, refused before any work")
        chosen = settings(request, self._limits)
        until = None if request.deadline_ms is None else self._loop.time() + request.deadline_ms / 1e3
        job = Job(request, client, chosen, until)
        self._loop.call_soon_threadsafe(self._start, job)
        return job

    def cancel(self, job: Job) -> None:
        """End a request wherever it is; harmless when it has ended."""
        self._loop.call_soon_threadsafe(self._cancel, job)

    def close(self) -> None:
        """End everything, then the model, whose last results still want the event loop, then the threads."""
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(CLOSE_S)
        self._model.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._clients.shutdown()

    def _run(self) -> None:
        watching = self._loop.create_task(self._watch())
        self._loop.run_forever()
        watching.cancel()
        self._loop.run_until_complete(asyncio.gather(watching, return_exceptions=True))
        self._loop.close()

    def _start(self, job: Job) -> None:
        if self._closing or len(self._jobs) >= self._limits.max_requests:
            reason = "UNAVAILABLE: the engine is shutting down" if self._closing else "RESOURCE_EXHAUSTED: the engine's queue is full"
            self._fail(job, reason)
            return
        self._jobs.add(job)
        job.task = self._loop.create_task(self._answer(job))
        job.task.add_done_callback(lambda task: self._ended(job, task))

    @staticmethod
    def _cancel(job: Job) -> None:
        if job.task is not None:
            job.task.cancel()

    async def _answer(self, job: Job) -> None:
        request, reader = job.request, Reader(job.request)
        result = self._model.generate(request.input_ids, job.settings, streaming=request.streaming, salt=request.namespace or None)
        try:
            async with asyncio.timeout_at(job.until):
                async for output in result:
                    if output.finished or request.streaming:
                        response = reader.read(output.outputs[0], final=output.finished)
                        self._clients.submit(_send, job, response, final=output.finished)
        finally:
            if not result.finished:
                result.abort()

    def _ended(self, job: Job, task: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if task.cancelled():
            self._fail(job, "UNAVAILABLE: the engine is shutting down" if self._closing else "CANCELLED: the request was cancelled")
        elif isinstance(error := task.exception(), TimeoutError):
            self._fail(job, "DEADLINE_EXCEEDED: deadline_ms passed")
        elif isinstance(error, ValueError):
            self._fail(job, f"INVALID_ARGUMENT: the LLM API refuses it: {error}")
        elif error is not None:
            log.error("a request failed: %s", type(error).__name__)  # Its text may hold the prompt.
            self._fail(job, "UNAVAILABLE: the engine failed")
            if isinstance(error, self._crash):
                self._clients.submit(self._on_crash)

    def _fail(self, job: Job, message: str) -> None:
        self._clients.submit(_fail, job, message)

    async def _watch(self) -> None:
        """Cancel what nobody waits for any more."""
        while True:
            await asyncio.sleep(WATCH_PERIOD_S)
            for job in await self._loop.run_in_executor(self._clients, _gone, tuple(self._jobs)):
                self._cancel(job)

    async def _end_all(self) -> None:
        self._closing = True
        tasks = [job.task for job in self._jobs if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _send(job: Job, response: EngineResponse, *, final: bool) -> None:
    if not job.answered:
        job.answered = final
        job.client.send(response, final=final)


def _fail(job: Job, message: str) -> None:
    if not job.answered:
        job.answered = True
        job.client.fail(message)


def _gone(jobs: tuple[Job, ...]) -> list[Job]:
    return [job for job in jobs if not job.answered and job.client.is_cancelled()]
