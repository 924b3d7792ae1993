"""A Redis Cluster: each group goes to the node of its key's slot, one message for each node.

redis-py's cluster client gives the map of slots and the connections. Its own redirection is not used: it sends what was redirected one by
one, transactions torn apart, and ASKING on another connection than the command if more than one is free. Nor are its retries, between
which it sleeps.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import AskError, MovedError, RedisClusterException, RedisError, ResponseError

from keyahead.cache.redis_commands import Group, key_of, outcomes, queue

# The map is asked for anew after a failure, but not more often than this: reading one takes some milliseconds of the event loop.
REFRESH_S = 1.0
# redis-py's cluster error is none of its RedisErrors, and IndexError is what it makes of a map that names no primary yet.
_ERRORS = (RedisError, RedisClusterException, OSError, IndexError)


class ClusterLink:
    """A Link to the nodes of a cluster."""

    def __init__(self, client: RedisCluster, hosts: Sequence[tuple[str, int]]) -> None:
        """A client that has not connected yet, and the hosts of the address, which are asked for the map when no known node answers."""
        self._client = client
        self._hosts = list(hosts)
        self._refreshed_at = -REFRESH_S
        self._refresh: asyncio.Task[None] | None = None

    async def run(self, groups: Sequence[Group]) -> list[Any]:
        """See Link. One round trip, and one more for what is redirected: a slot has moved, or is being moved."""
        try:
            await self._client.initialize()
        except _ERRORS as error:
            return [error] * len(groups)
        results: list[Any] = [None] * len(groups)
        await self._deliver({number: self._node_of(key_of(group)) for number, group in enumerate(groups)}, groups, results)
        if redirected := {number: error for number, error in enumerate(results) if isinstance(error, AskError)}:
            # ASKING changes nothing at a node that owns the slot already.
            asking = [(("ASKING",), *group) for group in groups]
            await self._deliver({number: await self._redirect(error) for number, error in redirected.items()}, asking, results)
        if any(isinstance(result, Exception) and not isinstance(result, ResponseError) for result in results):
            self._start_refresh()
        return results

    def server_of(self, key: str) -> str:
        """See Link. The empty name stands for the cluster as a whole: no map has been read, or nobody has the slot."""
        node = self._node_of(key)
        return "" if isinstance(node, Exception) else str(node.name)

    async def aclose(self) -> None:
        """See Link."""
        if self._refresh:
            await asyncio.wait({self._refresh})
        await self._client.aclose()

    async def _deliver(self, nodes: dict[int, ClusterNode | Exception], groups: Sequence[Group], results: list[Any]) -> None:
        """Send each numbered group to its node, to all nodes at once, and put what comes of it into the results."""
        numbers: dict[ClusterNode, list[int]] = defaultdict(list)
        for number, node in nodes.items():
            if isinstance(node, Exception):
                results[number] = node
            else:
                numbers[node].append(number)
        await asyncio.gather(*(self._deliver_to(node, its, groups, results) for node, its in numbers.items()))

    async def _deliver_to(self, node: ClusterNode, numbers: list[int], groups: Sequence[Group], results: list[Any]) -> None:
        its = [groups[number] for number in numbers]
        try:
            pipeline = self._client.pipeline()
            queue(pipeline, its, target_nodes=node)
            replies = outcomes(its, await pipeline.execute(raise_on_error=False, allow_redirections=False))
        except _ERRORS as error:
            replies = [error] * len(its)
        for number, reply in zip(numbers, replies, strict=True):
            results[number] = reply

    def _node_of(self, key: str | bytes | int) -> ClusterNode | Exception:
        try:
            return self._client.nodes_manager.get_node_from_slot(self._client.keyslot(key))
        except (*_ERRORS, KeyError) as error:  # nobody has the slot
            return RedisError(type(error).__name__)

    async def _redirect(self, error: AskError) -> ClusterNode | Exception:
        """Where a redirection leads; one for good changes the map."""
        if isinstance(error, MovedError):
            await self._client.nodes_manager.move_slot(error)
        return self._client.get_node(error.host, error.port) or RedisError("redirected to an unknown node")

    def _start_refresh(self) -> None:
        idle = self._refresh is None or self._refresh.done()
        if idle and time.monotonic() - self._refreshed_at >= REFRESH_S:
            self._refreshed_at = time.monotonic()
            self._refresh = asyncio.create_task(self._read_map(), name="cache-redis-cluster-map")

    async def _read_map(self) -> None:
        try:
            await self._client.nodes_manager.initialize(additional_startup_nodes_info=self._hosts)
        except _ERRORS:
            return  # the old map stays, and the next failure asks again
