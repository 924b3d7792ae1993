"""What people notice when Redis freezes or dies, another tenant floods, or the engine dies, and whether anybody sees another tenant's text.

Starts a stack of its own, and a service beside it that knows several tenants. People of one tenant type the same keys at the same moments
with everything well, then under each fault; each time as a new tenant, so that nothing is warm from the time before. Everything is well
twice, so that what else the machine does falls on both. Last, nobody types, and the engine is killed once more: hits go on meanwhile, and
cold requests tell how soon they are refused and when they are answered again.

Every tenant has a word of its own in a file that is else the same for all, and asks for it. Whose word comes back is looked at in every
answer of the run.

The flood and whoever kills Redis or the engine are processes of their own, so that they do not hold up the clients that take the times.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import multiprocessing
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from common import MODEL, SEED, Figure, arguments, model_folder, report_figures
from hits import Complete, Place, Seen, at_rate, fill, places, timed
from hits import request as hit_request
from running import Service, Stack, another_service, running_stack

from keyahead.cli.infilling import percentile
from keyahead.engine import catalogue
from keyahead.loadtest import texts
from keyahead.loadtest.figures import is_eligible
from keyahead.loadtest.judge import Answer, Ask, Outcome, Record
from keyahead.loadtest.plan import make_plan
from keyahead.loadtest.replay import replay
from keyahead.loadtest.rpc import CHANNEL_OPTIONS, TIMEOUT_S, answer, no_answer, request
from keyahead.loadtest.typist import Typist
from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

TYPISTS = 2
FLOOD_PER_S = 40.0
PROBE_PERIOD_S = 3.0
KILL_PERIOD_S = 0.2
"""How often a process that has been restarted is looked for."""
ENGINE = "triton_python_b"
"""The process that computes."""
ENGINE_LIFE_S = 8.0
"""It is killed again at this age: it has then served for a few seconds, after some four of loading."""
HITS_PER_S = 20.0
"""While the engine dies."""
COLD_PER_S = 4.0
HIT_PLACES = 12
RECOVERY_S = 90.0
"""Longest wait for the engine."""

_ASIDE = "".join(f"value_{number} = load({number})\n" for number in range(24))
"""More lines than an anchor has, so that the place is the same for all tenants, and few enough for all to be in the prompt."""


@dataclass(frozen=True)
class Tenant:
    """Who asks."""

    name: str

    @property
    def token(self) -> str:
        """What it shows."""
        return f"token of {self.name}"

    @property
    def word(self) -> str:
        """Its own."""
        return f"heron{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of its calls."""
        return (("authorization", f"Bearer {self.token}"),)


@dataclass
class Witness:
    """Reads every answer for the words of others."""

    tenants: Sequence[Tenant]
    own: int = 0
    """Answers with the asker's own word, which show that words do come back."""
    foreign: int = 0
    read: int = 0

    def add(self, other: Witness) -> None:
        """What another one has seen."""
        self.own, self.foreign, self.read = self.own + other.own, self.foreign + other.foreign, self.read + other.read

    def see(self, tenant: Tenant, text: str) -> None:
        """An answer to a tenant."""
        self.read += 1
        self.own += tenant.word in text
        self.foreign += any(other.word in text for other in self.tenants if other is not tenant)


@dataclass
class Client:
    """One tenant at the service."""

    tenant: Tenant
    channel: grpc.aio.Channel
    witness: Witness
    run_id: str = ""

    async def complete(self, message: pb.CompleteRequest) -> pb.CompleteResponse:
        """Ask. Raises AioRpcError."""
        response: pb.CompleteResponse = await pb_grpc.AutocompleteStub(self.channel).Complete(
            message, timeout=TIMEOUT_S, metadata=self.tenant.metadata
        )
        self.witness.see(self.tenant, response.text)
        return response

    async def __call__(self, typist: int, ask: Ask) -> Answer:
        """For a replay. Raises Superseded and Failed."""
        try:
            return answer(await self.complete(request(ask, f"{self.tenant.name}.{typist}")))
        except grpc.aio.AioRpcError as error:
            raise no_answer(error.code()) from None

    async def ask_for_the_word(self) -> None:
        """Again and again, until cancelled."""
        text = f"WORD = '{self.tenant.word}'\n{_ASIDE}assert WORD == '"
        document = pb.Document(path="word.py", split=pb.SplitText(prefix=text, suffix="\n"))
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self.complete(pb.CompleteRequest(document=document, trigger=pb.TRIGGER_MANUAL))
            await asyncio.sleep(PROBE_PERIOD_S)

    async def flood(self, seconds: float) -> None:
        """Cold prompts for so long."""
        rng = random.Random(SEED)  # noqa: S311 - places, not secrets
        files = [source.text for source in texts.from_folder()]

        async def ask() -> None:
            text = rng.choice(files)
            at = rng.randrange(len(text) // 2, len(text))
            document = pb.Document(path="b.py", split=pb.SplitText(prefix=text[:at], suffix=text[at + 40 :]))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self.complete(pb.CompleteRequest(document=document))

        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until:
                group.create_task(ask())
                await asyncio.sleep(1 / FLOOD_PER_S)


def flood(address: str, tenants: Sequence[Tenant], seconds: float) -> Witness:
    """The last tenant's, in a process of its own; what it has seen."""
    witness = Witness(tenants)

    async def run() -> None:
        async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel:
            await Client(tenants[-1], channel, witness).flood(seconds)

    asyncio.run(run())
    return witness


@asynccontextmanager
async def meanwhile(*tasks: Any) -> AsyncIterator[None]:
    """What goes on during the block."""
    running = [asyncio.create_task(task) for task in tasks]
    try:
        yield
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@asynccontextmanager
async def beside(pool: ProcessPoolExecutor, witness: Witness, work: Callable[..., Witness | None], *args: Any) -> AsyncIterator[None]:
    """Something goes on in another process, which ends by itself."""
    running: Future[Witness | None] = pool.submit(work, *args)
    yield
    if seen := await asyncio.wrap_future(running):
        witness.add(seen)


def child(stack_pid: int, name: str) -> psutil.Process | None:
    """A process of the stack by the beginning of its name, which the kernel cuts at 15 characters."""
    children = psutil.Process(stack_pid).children(recursive=True)
    return next((each for each in children if each.name().startswith(name)), None)


@asynccontextmanager
async def frozen_redis(stack: Stack) -> AsyncIterator[None]:
    """It is stopped during the block."""
    redis = child(stack.service.pid, "redis-server")
    assert redis is not None
    redis.suspend()
    try:
        yield
    finally:
        redis.resume()


def kill(stack_pid: int, name: str, age_s: float, seconds: float) -> None:
    """A process of the stack, as often as it reaches an age."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = child(stack_pid, name)
        if found and time.time() - found.create_time() > age_s:
            found.kill()
        time.sleep(KILL_PERIOD_S)


FAULTS = {
    "frozen": "Redis frozen",
    "killed": "Redis killed again and again",
    "engine": "engine killed again and again",
    "flood": "another tenant floods",
}


@dataclass
class Phase:
    """What the typists had of one state of affairs."""

    records: list[Record] = field(default_factory=list)

    def p99(self, *, hits: bool = False) -> float:
        """Milliseconds from the key, of all that was asked or only of hits; a failure counts with the time until then."""
        chosen = [each for each in self.records if is_eligible(each) and (not hits or each.detail in {"memory", "redis"})]
        return percentile(sorted(each.latency_s for each in chosen), 0.99) * 1e3 if chosen else math.nan

    @property
    def answered(self) -> float:
        """Part of what was asked that got text."""
        eligible = [each for each in self.records if is_eligible(each)]
        return sum(each.outcome is Outcome.ANSWERED and each.characters > 0 for each in eligible) / len(eligible)


async def type_keys(client: Client, seconds: float) -> Phase:
    """The tenant's people type for so long."""
    sources = texts.from_folder()
    typists = [Typist(make_plan(sources, SEED, number, TYPISTS, seconds)) for number in range(TYPISTS)]
    await replay(typists, client, seconds)
    return Phase([record for typist in typists for record in typist.records])


@dataclass
class Death:
    """What was seen of the engine's death. Milliseconds, but for `recovery_s`."""

    before: list[float]
    """Hits while all was well."""
    during: list[float]
    """Hits until the engine was back."""
    failed: int
    """Hits that were not answered."""
    refused: list[float]
    """Requests for the engine, until they were refused."""
    recovery_s: float
    """From the kill to the first answer of the engine."""


def watch_engine_die(stack: Stack, service: Service, tenant: Tenant, witness: Witness, seconds: float) -> Death:
    """Kill the engine amid hits and cold requests, and wait until it is back."""
    stub = service.stub()

    def complete(message: pb.CompleteRequest) -> pb.CompleteResponse:
        response: pb.CompleteResponse = stub.Complete(message, timeout=RECOVERY_S, metadata=tenant.metadata)
        witness.see(tenant, response.text)
        return response

    hits = [hit for hit in fill(complete, places(HIT_PLACES)) if complete(hit).source == pb.SOURCE_MEMORY]
    before, during = Seen(), Seen()
    one_second = range(int(HITS_PER_S))

    def hit(number: int) -> pb.CompleteResponse | None:
        try:
            return complete(hits[number % len(hits)])
        except grpc.RpcError:
            return None

    for _ in range(int(seconds)):
        at_rate(timed(hit), one_second, before, HITS_PER_S)
    engine = child(stack.service.pid, ENGINE)
    assert engine is not None
    unknown = places(int(RECOVERY_S * COLD_PER_S))[HIT_PLACES:]  # Beforehand: it takes seconds of this process.
    with ThreadPoolExecutor(1) as pool:
        engine.kill()
        cold = pool.submit(ask_until_answered, complete, unknown)
        while not cold.done():
            at_rate(timed(hit), one_second, during, HITS_PER_S)
        refused, recovery_s = cold.result()
    return Death(sorted(before.took), sorted(during.took), during.answers.count(None), sorted(refused), recovery_s)


def ask_until_answered(complete: Complete, unknown: Sequence[Place]) -> tuple[list[float], float]:
    """Ask for what only the engine knows; how long each refusal took, in milliseconds, and after how many seconds it answered."""
    refused: list[float] = []
    begin = time.monotonic()
    for place in unknown:
        sent = time.monotonic()
        try:
            complete(hit_request(place, pb.TRIGGER_MANUAL))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            refused.append((time.monotonic() - sent) * 1e3)
            time.sleep(1 / COLD_PER_S)
        else:
            return refused, time.monotonic() - begin
    raise RuntimeError(f"the engine has not answered within {RECOVERY_S:.0f} s")


CONDITIONS = ("well", "frozen", "flood", "engine", "well again", "killed")


async def measure(stack: Stack, service: Service, tenants: Sequence[Tenant], witness: Witness, seconds: float) -> dict[str, Phase]:
    """All phases but the engine's death, each by a tenant of its own; the last tenant is the one that floods."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(int).result()  # It is started and has loaded everything.
        return await _measure(stack, service, tenants, witness, seconds, pool)


async def _measure(
    stack: Stack, service: Service, tenants: Sequence[Tenant], witness: Witness, seconds: float, pool: ProcessPoolExecutor
) -> dict[str, Phase]:
    found = {}
    async with AsyncExitStack() as exits:
        clients = [
            Client(tenant, await exits.enter_async_context(grpc.aio.insecure_channel(service.address, CHANNEL_OPTIONS)), witness)
            for tenant in tenants
        ]
        faults: dict[str, Callable[[], AbstractAsyncContextManager[None]]] = {
            "frozen": lambda: frozen_redis(stack),
            "flood": lambda: beside(pool, witness, flood, service.address, tenants, seconds),
            "engine": lambda: beside(pool, witness, kill, stack.service.pid, ENGINE, ENGINE_LIFE_S, seconds),
            "killed": lambda: beside(pool, witness, kill, stack.service.pid, "redis-server", 0.0, seconds),
        }
        for condition, client in zip(CONDITIONS, clients, strict=False):
            async with faults.get(condition, meanwhile)(), meanwhile(client.ask_for_the_word(), clients[-1].ask_for_the_word()):
                found[condition] = await type_keys(client, seconds)
    return found


def figures(phases: dict[str, Phase], death: Death, witness: Witness) -> list[Figure]:
    """Ratios to when all was well."""
    well = Phase(phases["well"].records + phases["well again"].records)
    rows = []
    for name, meaning in FAULTS.items():
        phase = phases[name]
        for hits, what in ((False, "p99 from the key"), (True, "p99 of hits")):
            value, base = phase.p99(hits=hits), well.p99(hits=hits)
            label = f"{meaning}: {what} ({value:.3g} ms)"
            rows.append(Figure(f"{name}_{'hits' if hits else 'all'}", label, value / base, "times", f"well: {base:.3g} ms", at_most=1.3))
        baseline = f"well: {well.answered:.2f}"
        rows.append(Figure(f"{name}_answered", f"{meaning}: share with text", phase.answered / well.answered, "times", baseline))
    base, value = percentile(death.before, 0.99), percentile(death.during, 0.99)
    label = f"nobody types, engine killed: p99 of {len(death.during)} hits ({value:.3g} ms)"
    return [
        *rows,
        Figure("engine_idle_hits", label, value / base, "times", f"before: {base:.3g} ms"),
        Figure("engine_failed", "the same: hits that failed", death.failed, "calls", at_most=0),
        Figure("refused_p50", f"refused for want of the engine, p50 of {len(death.refused)}", percentile(death.refused, 0.5), "ms"),
        Figure("refused_max", "the same, longest", max(death.refused), "ms"),
        Figure("recovery", "from the kill to the engine's next answer", death.recovery_s, "s"),
        Figure("own", f"of {witness.read} answers with the tenant's own word", witness.own, "answers", at_least=1),
        Figure("foreign", "with another tenant's word", witness.foreign, "answers", at_most=0),
    ]


def main() -> None:
    options = arguments(__doc__, limit=25)
    tenants = [Tenant(f"tenant-{number}") for number in range(len(CONDITIONS) + 2)]
    witness = Witness(tenants)
    with tempfile.NamedTemporaryFile("w") as tokens, running_stack() as stack:
        tokens.writelines(f"{tenant.name}:{hashlib.sha256(tenant.token.encode()).hexdigest()}\n" for tenant in tenants)
        tokens.flush()
        with another_service(stack, model_folder(catalogue.get(MODEL)), KEYAHEAD_TOKENS_FILE=tokens.name) as service:
            phases = asyncio.run(measure(stack, service, tenants, witness, options.limit))
            death = watch_engine_die(stack, service, tenants[-2], witness, options.limit / 2)
    report_figures(Path(__file__).stem, figures(phases, death, witness), as_json=options.json)


if __name__ == "__main__":
    main()
