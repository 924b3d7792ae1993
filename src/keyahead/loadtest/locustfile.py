"""Typists for Locust's own command and web page: locust -f locustfile.py --host 127.0.0.1:50551

Locust then says how many people type, and shows its own figures. Each user is one typist, from the moment it is spawned. For a verdict, use
`keyahead loadtest`: Locust's percentiles are rounded to 10 ms above 100 ms.
"""

from __future__ import annotations

from grpc.experimental import gevent as grpc_gevent  # type: ignore[attr-defined]  # missing in the stubs

grpc_gevent.init_gevent()  # Locust has patched the standard library already.

# ruff: noqa: E402  # gRPC must be patched first

import secrets
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from keyahead.loadtest import users
from keyahead.loadtest.config import Kind, Target, Via
from keyahead.loadtest.crowd import Member
from keyahead.loadtest.plan import make_plan
from keyahead.loadtest.plugins import Install, plugin
from keyahead.loadtest.texts import from_folder
from keyahead.loadtest.typist import Typist

MOST_TYPISTS = 256
"""Among whom the files are dealt; a later user begins with the first one's files again."""
HOURS = 1.0
"""How long a typist has something to type."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust's hooks have no types
def add_options(parser: LocustArgumentParser) -> None:
    """What is typed."""
    parser.add_argument("--texts", default="", help="A folder of source files to type; by default Python's standard library.")
    parser.add_argument("--seed", type=int, default=0, help="The same seed gives the same keys.")
    parser.add_argument("--via", choices=list(Via), default=Via.CALLS, help="A call for each key, or a stream for each typist.")


@events.init.add_listener  # type: ignore[untyped-decorator]  # likewise
def set_stage(environment: Environment, **_: Any) -> None:
    """Typists come as Locust spawns them; workers share the numbers out."""
    options = environment.parsed_options
    first = max(0, getattr(environment.runner, "worker_index", 0))
    stage = users.Stage(_cast(environment, options or Namespace(texts="", seed=0, via=Via.CALLS), first))
    stage.begin(time.monotonic())
    WebTypist.stage = stage


def _cast(environment: Environment, options: Namespace, first: int) -> Iterator[tuple[Member, Install]]:
    """Typists without end, each from now on."""
    sources = from_folder(Path(options.texts) if options.texts else None)
    run_id, number = secrets.token_hex(6), first
    while True:
        plan = make_plan(sources, options.seed, number % MOST_TYPISTS, MOST_TYPISTS, HOURS * 3600, repeat=True)
        target = Target(Kind.KEYAHEAD, environment.host or "", "keyahead", via=Via(options.via))
        now_s = WebTypist.stage.now_s()
        yield Member(Typist(plan), now_s, now_s + HOURS * 3600), plugin(target, number, run_id)
        number += _workers(environment)


def _workers(environment: Environment) -> int:
    return max(1, getattr(environment.parsed_options, "expect_workers", 1) or 1)


class WebTypist(users.TypistUser):
    """One typist's editor."""

    host = "127.0.0.1:50551"
