"""From an address to a connection: one Redis server, the primary that Sentinels name, or a cluster. None of them retries or waits long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from keyahead.cache.redis_cluster import ClusterLink
from keyahead.cache.redis_commands import Group, outcomes, queue

_SENTINEL_PORT = 26379
_REDIS_PORT = 6379
# A fixed sentence: the parsers' own would quote the address, which may hold a password.
_FORMS = (
    "cache redis url: it must be redis://[user:password@]host[:port][/db], unix://path, "
    "redis+sentinel://[user:password@]host[:port][,host[:port]]/service[/db] or redis+cluster://[user:password@]host[:port][,host[:port]]; "
    "rediss for TLS, and special characters of a password percent-encoded"
)


class Link(Protocol):
    """A connection to Redis, however many servers that is."""

    async def run(self, groups: Sequence[Group]) -> list[Any]:
        """The last reply to each group, or the error that it met; each group is about one key. Never raises an error of Redis."""
        ...

    def server_of(self, key: str) -> str:
        """A name for the server that has this key, as far as is known now."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class SingleLink:
    """One server at a time: always the same, or the primary that Sentinels name."""

    def __init__(self, client: Redis, sentinel: Sentinel | None = None) -> None:
        self._client = client
        self._sentinel = sentinel

    async def run(self, groups: Sequence[Group]) -> list[Any]:
        """See Link."""
        try:
            pipeline = self._client.pipeline(transaction=False)
            queue(pipeline, groups)
            return outcomes(groups, await pipeline.execute(raise_on_error=False))
        except (RedisError, OSError) as error:
            return [error] * len(groups)

    def server_of(self, key: str) -> str:  # noqa: ARG002  # the same for all keys
        """See Link."""
        return ""

    async def aclose(self) -> None:
        """See Link."""
        await self._client.aclose()
        if self._sentinel:
            await self._sentinel.aclose()


def connect(url: str, timeout_s: float, max_connections: int) -> Link:
    """A link that connects on first use; a silent connection is given up after `timeout_s`. Raises ValueError if the address is none."""
    options = _options(timeout_s, max_connections)
    scheme, _, rest = url.partition("://")
    protocol, _, topology = scheme.partition("+")
    try:
        match topology:
            case "":
                return SingleLink(Redis.from_url(url, **options))
            case "sentinel":
                return _sentinel(protocol, rest, options)
            case "cluster":
                return _cluster(protocol, rest, options)
    except ValueError:
        pass
    raise ValueError(_FORMS) from None


def _options(timeout_s: float, max_connections: int) -> dict[str, Any]:
    """redis-py's own defaults wait 5 s, ten times over."""
    return {
        "protocol": 3,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "max_connections": max_connections,
        # Neither introductions nor maintenance news: they cost a round trip on connecting, and rights the cache does not need else.
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _sentinel(protocol: str, rest: str, options: dict[str, Any]) -> SingleLink:
    hosts, path, own = _parse(protocol, rest, _SENTINEL_PORT)
    service, _, database = path.partition("/")
    if not service:
        raise ValueError
    # The credentials are those of the Redis servers; Sentinels are asked without.
    tls = {name: value for name, value in own.items() if name.startswith("ssl")}
    sentinel = Sentinel(hosts, sentinel_kwargs={**options, **tls})  # type: ignore[no-untyped-call]  # redis-py has no types there
    return SingleLink(sentinel.master_for(service, **options, **own, db=int(database or 0)), sentinel)


def _cluster(protocol: str, rest: str, options: dict[str, Any]) -> ClusterLink:
    hosts, path, own = _parse(protocol, rest, _REDIS_PORT)
    if path:
        raise ValueError
    # Full coverage is not asked for, because the slots that are covered can serve.
    client = RedisCluster(startup_nodes=[ClusterNode(*host) for host in hosts], require_full_coverage=False, **options, **own)
    return ClusterLink(client, hosts)


def _parse(protocol: str, rest: str, port: int) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Hosts, path, and what redis-py's own parser makes of the credentials and the query. Raises ValueError."""
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    options = dict(parse_url(f"{protocol}://{credentials}{at}host?{query}"))
    if options.pop("host", None) is None:  # a socket
        raise ValueError
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return [_host(host, port) for host in hosts.split(",")], path.strip("/"), options


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or port
