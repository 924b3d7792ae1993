"""Standard gRPC health: the empty name is liveness (the process answers), the service's name is readiness (the engine is warm)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio  # type: ignore[attr-defined]  # grpc-stubs lacks it

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyahead.service.metrics import Metrics

READINESS: Final = "keyahead.v1.Autocomplete"
POLL_S: Final = 0.1
"""How often readiness is looked at: well below a prober's period, which is a second or more."""
TOLD_S: Final = 2.0
"""Whoever asks for health before it sends calls has asked within this: Envoy asks once a second (deploy/envoy), a kubelet every two."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class _Servicer(aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """Knows when it was asked last."""

    asked_at = float("-inf")

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802
        self.asked_at = time.monotonic()
        return await super().Check(request, context)


class Health:
    """Publishes whether the service can answer."""

    def __init__(self, metrics: Metrics, before_ready: Callable[[], None] | None = None) -> None:
        """`before_ready` is called once, before readiness is first published."""
        self.servicer = _Servicer()
        self._metrics = metrics
        self._before_ready = before_ready
        self._ready = False

    async def follow(self, is_ready: Callable[[], bool]) -> None:
        """Publish readiness as it changes, until cancelled."""
        while True:
            ready = is_ready()
            self._metrics.engine_up.set(ready)
            if ready != self._ready:
                await self.publish(ready=ready)
            await asyncio.sleep(POLL_S)

    async def told(self) -> None:
        """Wait until whoever asks for health knows what was published last; returns at once if nobody asks."""
        if time.monotonic() - self.servicer.asked_at < TOLD_S:
            await asyncio.sleep(TOLD_S)

    async def publish(self, *, ready: bool) -> None:
        """Set readiness. Liveness is never withdrawn, or an orchestrator would kill a draining process before its calls have ended."""
        if ready and self._before_ready:
            self._before_ready()
            self._before_ready = None
        self._ready = ready
        structlog.get_logger().info("readiness", ready=ready)
        await self.servicer.set(READINESS, _SERVING if ready else _NOT_SERVING)
