"""Whether the parts of a stack can do their work yet."""

from __future__ import annotations

import socket
from collections.abc import Callable

import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyahead.engine.contract import MODEL_NAME
from keyahead.engine.store import SetupError
from keyahead.proto.inference import triton_pb2, triton_pb2_grpc

_TIMEOUT_S = 0.5
_SERVICE = "keyahead.v1.Autocomplete"


def triton_ready(address: str) -> bool:
    """Whether Triton at `address` serves the engine."""

    def ask(channel: grpc.Channel) -> bool:
        request = triton_pb2.ModelReadyRequest(name=MODEL_NAME)
        return triton_pb2_grpc.GRPCInferenceServiceStub(channel).ModelReady(request, timeout=_TIMEOUT_S).ready

    return _asked(address, ask)


def service_ready(address: str) -> bool:
    """Whether the service at `address` can answer, which needs a warm engine."""

    def ask(channel: grpc.Channel) -> bool:
        request = health_pb2.HealthCheckRequest(service=_SERVICE)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_S)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return _asked(address, ask)


def redis_ready(url: str) -> bool:
    """Whether the Redis server answers."""
    try:
        _ping(url)
    except redis.RedisError:
        return False
    return True


def require_redis(url: str) -> None:
    """Raise a SetupError unless the operator's own server answers."""
    try:
        _ping(url)
    except (redis.RedisError, ValueError) as error:
        raise SetupError(
            f"The Redis server of --redis-url does not answer ({error}): start it, mend the URL, or use --no-redis."
        ) from error


def require_free_port(port: int, option: str) -> None:
    """Raise a SetupError if something listens on the loopback port that `option` sets."""
    variable = "KEYAHEAD_" + option.removeprefix("--").replace("-", "_").upper()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SetupError(
                f"Port {port} is not free ({error.strerror}): stop what uses it, or choose another with {option} or {variable}."
            ) from error


def _asked(address: str, ask: Callable[[grpc.Channel], bool]) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            return ask(channel)
        except grpc.RpcError:
            return False


def _ping(url: str) -> None:
    with redis.Redis.from_url(_one_server(url), socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S) as client:
        client.ping()


def _one_server(url: str) -> str:
    """Of the address of Sentinels or a cluster the first server, which is asked in their name; a Sentinel is asked without credentials."""
    scheme, separator, rest = url.partition("://")
    protocol, _, topology = scheme.partition("+")
    if not topology:
        return url
    place, question, query = rest.partition("?")
    credentials, at, hosts = place.partition("/")[0].rpartition("@")
    login = "" if topology == "sentinel" else credentials + at
    return f"{protocol}{separator}{login}{hosts.partition(',')[0]}{question}{query}"
