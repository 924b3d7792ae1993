"""Typists as Locust users, in gevent: a thin shell around `Typist`, as `replay` is for asyncio."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
from gevent.event import Event
from locust import User, task
from locust.exception import StopUser

from keyahead.loadtest.crowd import Member
from keyahead.loadtest.judge import Ask
from keyahead.loadtest.plugins import Install, Seat

MOST_WAITING = 1024
"""Calls and streams that wait at once. gRPC waits for each in a thread of gevent's pool. With the pool's own 10, 14 streams took 30 ms, and
up to 1.1 s, for what takes 0.7 ms. Threads are made as they are needed."""


class Stage:
    """Where users find whom they play, and what time it is."""

    def __init__(self, cast: Iterator[tuple[Member, Install]]) -> None:
        gevent.get_hub().threadpool.maxsize = MOST_WAITING
        self._cast = cast
        self._start = 0.0
        self.begun = Event()

    def begin(self, start: float) -> None:
        """The run starts at this moment of `time.monotonic`, which all processes of a machine share."""
        self._start = start
        self.begun.set()

    def next(self) -> tuple[Member, Install]:
        """Somebody to play, and the plugin of their editor. Raises StopUser when nobody is left."""
        try:
            return next(self._cast)
        except StopIteration:
            raise StopUser from None

    def now_s(self) -> float:
        """Since the run's start."""
        return time.monotonic() - self._start

    def wait_until(self, moment_s: float) -> None:
        """Until a moment of the run."""
        gevent.sleep(max(0.0, moment_s - self.now_s()))


class TypistUser(User):
    """One typist with an editor."""

    stage: Stage
    """The same for all users of a process; set before the first is spawned."""

    def on_start(self) -> None:
        """Take a part."""
        self._member, install = self.stage.next()
        self._plugin = install(Seat(self._member.typist, self._now_s, self._tell))

    @task
    def type(self) -> None:
        """Hit every key at its moment, whatever has been answered; then wait for the last answers."""
        self.stage.begun.wait()
        typist, start_s, end_s = self._member.typist, self._member.start_s, self._member.end_s
        while (due_s := typist.due_s) is not None and start_s + due_s < end_s:
            self.stage.wait_until(start_s + due_s)
            self._plugin.key()
        self.stage.wait_until(end_s)
        self._plugin.close()
        typist.finish(self._now_s())
        raise StopUser

    def _now_s(self) -> float:
        """Since this typist's start."""
        return self.stage.now_s() - self._member.start_s

    def _tell(self, ask: Ask, name: str, error: Exception | None) -> None:
        """Locust's own figures, for its web page; its percentiles are coarse, ours are not."""
        response_time = (self._now_s() - ask.at_s) * 1000
        self.environment.events.request.fire(
            request_type="typing", name=name, response_time=response_time, response_length=0, exception=error, context={}
        )
