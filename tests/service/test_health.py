"""Readiness follows the engine; liveness does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyahead.service import health as health_module
from keyahead.service.health import READINESS, Health
from keyahead.service.metrics import Metrics

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Engine:
    """Something that is ready or not."""

    ready = False


@asynccontextmanager
async def serving(health: Health, engine: Engine) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    """A real server with nothing but health on it."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await health.publish(ready=False)
    await server.start()
    follower = asyncio.create_task(health.follow(lambda: engine.ready))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    follower.cancel()
    await server.stop(None)


async def check(stub: health_pb2_grpc.HealthStub, service: str) -> int:
    """The status now."""
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(response.status)


async def test_a_watcher_sees_readiness_come_and_go_while_liveness_stays() -> None:
    """The engine's state is published as it changes, and in the gauge; the process answers throughout."""
    engine, metrics = Engine(), Metrics()
    async with serving(Health(metrics), engine) as stub, asyncio.timeout(10):
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=READINESS))
        for ready, status in ((False, NOT_SERVING), (True, SERVING), (False, NOT_SERVING)):
            engine.ready = ready
            assert (await watch.read()).status == status
            assert metrics.registry.get_sample_value("keyahead_engine_up") == float(ready)
            assert await check(stub, "") == SERVING
            assert await check(stub, READINESS) == status
        watch.cancel()


async def test_the_hook_runs_once_and_before_readiness_is_published() -> None:
    """Freezing the garbage collector's view is done before the first caller, and not again."""
    engine, runs = Engine(), []
    health = Health(Metrics(), before_ready=lambda: runs.append(engine.ready))
    async with serving(health, engine) as stub, asyncio.timeout(10):
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=READINESS))
        for ready in (False, True, False, True):
            engine.ready = ready
            await watch.read()
        watch.cancel()
    assert runs == [True]


async def test_who_asks_is_told_before_the_server_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a check there is time for the next one; where nobody asks there is nothing to wait for."""
    monkeypatch.setattr(health_module, "TOLD_S", 0.3)
    health = Health(Metrics())
    async with serving(health, Engine()) as stub:
        unasked = asyncio.create_task(health.told())
        await asyncio.sleep(0)  # One turn of the loop is enough for it.
        assert unasked.done()
        await check(stub, READINESS)
        asked = time.monotonic()
        await health.told()
        assert time.monotonic() - asked >= 0.25


async def test_an_unknown_service_is_not_found() -> None:
    """A mistyped name in a probe is an error and not an eternal NOT_SERVING."""
    async with serving(Health(Metrics()), Engine()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(stub, "keyahead.v1.Typo")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
