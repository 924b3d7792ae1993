"""KV blocks in Redis, for sessions that come to an engine which does not know them; read and written by threads of its own.

The engine's thread never waits for Redis here: `fetch` and `offer` only queue, or refuse.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from keyahead.cache.breaker import Breaker
from keyahead.engine.cpu.kv_quota import Allowance, Key, Ledger
from keyahead.engine.cpu.kv_seal import BadBlockError, BlockId, Sealer

log = logging.getLogger(__name__)

_MAX_FETCHES = 4
"""Fetches queued; one more is refused. Each takes milliseconds, so this many mean that Redis is stuck."""
_MAX_WRITES = 64
"""Blocks that wait to be written: 25 MB of the default model."""
_BYTES_PER_S = 4e6
_BURST_BYTES = 32e6
"""A cold prompt of 2,048 tokens is written at once; in the long run, half of what an engine prefilling without a pause computes."""
_TTL_S = 3600.0
_TTL_JITTER = 0.1
_TIMEOUT_S = 0.2
"""When a silent connection is given up; far above any budget, so that a late reply does not cost a reconnection."""
_READ_BYTES = 1 << 20
_SCHEMES = ("redis", "rediss", "unix")
MIN_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the blocks go."""

    url: str = field(repr=False)
    """redis://, rediss:// or unix:// address; may hold a password, so it is never shown."""
    server_key: bytes = field(repr=False)
    """Secret of at least 32 bytes, shared by all engines that are to share blocks."""
    fingerprint: bytes
    """What the bytes of a block depend on (`Runner.fingerprint`)."""
    capacity: int
    """Blocks that this engine keeps in Redis."""
    bytes_per_s: float = _BYTES_PER_S
    burst_bytes: float = _BURST_BYTES


@dataclass(frozen=True, slots=True)
class _Write:
    block: BlockId
    name: str
    payload: bytes
    surplus: list[str]
    """Names of blocks over the capacity, to be deleted with this write: they were written before it, as the queue keeps its order."""


@dataclass(frozen=True, slots=True)
class _Fetch:
    blocks: list[BlockId]
    give_up: float
    """When nobody waits for it any more, on the store's clock."""
    deliver: Callable[[list[bytes]], None]


_PROBE = _Fetch([], 0, lambda _: None)


class KvStore:
    """Blocks in one Redis server."""

    def __init__(self, settings: StoreSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError if the address is not one of Redis; connects on first use."""
        self._clock = clock
        self._sealer = Sealer(settings.server_key, settings.fingerprint)
        self._client = _connect(settings.url)
        self._lock = threading.Lock()
        """Guards what several threads change: the ledger and what it gives up, the breakers, the counters."""
        self._ledger = Ledger(settings.capacity, _TTL_S * (1 - _TTL_JITTER), clock)
        self._surplus: list[str] = []
        """What the next write is to delete."""
        self._allowance = Allowance(settings.bytes_per_s, settings.burst_bytes, clock)
        self._reading = Breaker(lambda state: log.info("reading KV blocks from Redis: breaker %s", state))
        self._writing = Breaker(lambda state: log.info("writing KV blocks to Redis: breaker %s", state))
        self._fetches: queue.Queue[_Fetch | None] = queue.Queue(_MAX_FETCHES)
        self._writes: queue.Queue[_Write | None] = queue.Queue(_MAX_WRITES)
        self._closing = threading.Event()
        self.written_bytes = 0
        self.dropped_blocks = 0
        """Blocks that were to be written but found the queue full, or Redis failing."""
        self._threads = [threading.Thread(target=work, name="kv-store", daemon=True) for work in (self._fetch_all, self._write_all)]
        for thread in self._threads:
            thread.start()

    def fetch(self, blocks: list[BlockId], budget_s: float, deliver: Callable[[list[bytes]], None]) -> bool:
        """Ask for these blocks, each the next of its chain, in one round trip; False, at once, when Redis is busy or ill.

        `deliver` is called on another thread with the payloads of as many as are there without a gap, none if there are none or too late.
        """
        if self._fetches.full():
            return False
        with self._lock:
            well, probe = self._reading.state == "closed", self._reading.take_probe()
        if probe:
            # In nobody's name, so that no request waits for a server that was ill a moment ago.
            self._fetches.put_nowait(_PROBE)
        elif well:
            self._fetches.put_nowait(_Fetch(blocks, self._clock() + budget_s, deliver))
        return well

    def wants(self, key: Key) -> bool:
        """Whether to `offer` it: it is not there yet, Redis is well (or due to be tried again), and there is room in the queue."""
        with self._lock:
            if self._ledger.has(key):
                return False
            if not self._writes.full() and (self._writing.state == "closed" or self._writing.take_probe()):
                return True
            self.dropped_blocks += 1
            return False

    def offer(self, block: BlockId, payload: bytes) -> None:
        """Write a block, soon; for the engine's thread, after `wants`."""
        name = self._sealer.name(block)
        with self._lock:
            surplus = [*self._surplus, *self._ledger.add(block.key, name)]
            self._surplus = []
        self._writes.put_nowait(_Write(block, name, payload, surplus))

    def close(self) -> None:
        """End the threads, which their timeouts see to, and the connections; what waits to be written is dropped."""
        self._closing.set()
        for waiting in (self._fetches, self._writes):
            try:
                waiting.put_nowait(None)
            except queue.Full:
                continue  # the thread sees `_closing` after its present job
        for thread in self._threads:
            thread.join(timeout=5)
        self._client.close()

    def _fetch_all(self) -> None:
        while (fetch := self._fetches.get()) is not None and not self._closing.is_set():
            fetch.deliver(self._fetch(fetch))

    def _fetch(self, fetch: _Fetch) -> list[bytes]:
        if fetch is _PROBE:
            return self._probe()
        if self._clock() >= fetch.give_up:
            self._report(self._reading, well=False)
            return []
        names = [self._sealer.name(block) for block in fetch.blocks]
        try:
            values = cast("list[bytes | None]", self._client.mget(names))
        except (RedisError, OSError):
            self._report(self._reading, well=False)
            return []
        self._report(self._reading, well=self._clock() < fetch.give_up)
        payloads: list[bytes] = []
        for block, name, value in zip(fetch.blocks, names, values, strict=True):
            payload = self._opened(block, value)
            if payload is None:
                break
            with self._lock:
                self._surplus += self._ledger.add(block.key, name)
            payloads.append(payload)
        return payloads

    def _opened(self, block: BlockId, value: bytes | None) -> bytes | None:
        try:
            if value is not None:
                return self._sealer.open(block, value)
        except BadBlockError:
            log.warning("a KV block in Redis does not open: damaged, or sealed with another key")
        with self._lock:
            self._ledger.discard(block.key)
        return None

    def _probe(self) -> list[bytes]:
        try:
            self._client.ping()
        except (RedisError, OSError):
            self._report(self._reading, well=False)
        else:
            self._report(self._reading, well=True)
        return []

    def _write_all(self) -> None:
        while (write := self._writes.get()) is not None and not self._closing.is_set():
            if self._writing.state == "open" or self._closing.wait(self._allowance.spend(len(write.payload))) or not self._write(write):
                with self._lock:
                    self.dropped_blocks += 1
                    self._ledger.discard(write.block.key)
                    self._surplus += write.surplus

    def _write(self, write: _Write) -> bool:
        jitter = random.uniform(1 - _TTL_JITTER, 1 + _TTL_JITTER)  # noqa: S311  # spreads load, keeps no secret
        try:
            # First: a block given up may be the very one that is wanted again.
            if write.surplus:
                self._client.unlink(*write.surplus)
            self._client.set(write.name, self._sealer.seal(write.block, write.payload), px=round(_TTL_S * 1000 * jitter))
        except (RedisError, OSError):
            self._report(self._writing, well=False)
            return False
        self._report(self._writing, well=True)
        self.written_bytes += len(write.payload)
        return True

    def _report(self, breaker: Breaker, *, well: bool) -> None:
        with self._lock:
            if well:
                breaker.succeeded()
            else:
                breaker.failed()


def _connect(url: str) -> Redis:
    """A client that never retries. (redis-py's own defaults wait 5 s, ten times over.)"""
    return Redis.from_url(
        url,
        protocol=3,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        socket_read_size=_READ_BYTES,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        # Neither introductions nor maintenance news, as in the cache (keyahead.cache.redis_tier).
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def open_store(environment: Mapping[str, str], fingerprint: bytes, capacity: int) -> KvStore | None:
    """The store that the service's own variables name; None, with a line in the log that says why, if there is to be none."""
    url, key = environment.get("KEYAHEAD_REDIS_URL", ""), environment.get("KEYAHEAD_CACHE_KEY", "")
    reason = _objection(url, key, capacity)
    try:
        if not reason:
            return KvStore(StoreSettings(url, bytes.fromhex(key), fingerprint, capacity))
    except ValueError:  # whose text would quote the address
        reason = "KEYAHEAD_REDIS_URL is not an address of Redis"
    log.info("KV blocks stay in this process: %s", reason)
    return None


def _objection(url: str, key: str, capacity: int) -> str:
    scheme = url.partition("://")[0]
    if not url:
        return "KEYAHEAD_REDIS_URL is not set"
    if capacity < 1:
        return "the parameter kv_store_mb allows none in Redis"
    if scheme not in _SCHEMES:
        return f"they are stored in a single Redis server only ({', '.join(_SCHEMES)}), and KEYAHEAD_REDIS_URL begins with {scheme}"
    try:
        usable = len(bytes.fromhex(key)) >= MIN_KEY_BYTES
    except ValueError:
        usable = False
    return "" if usable else f"KEYAHEAD_CACHE_KEY is not set to at least {2 * MIN_KEY_BYTES} hexadecimal digits"
