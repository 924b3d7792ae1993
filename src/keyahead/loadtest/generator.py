"""A process that generates load: python -m keyahead.loadtest.generator CONFIG.json SHARD RESULT.json

It is a process of its own, since gevent patches the standard library, and gRPC with it. It speaks JSON with its parent, a line at a time:
says that it is ready, reads the run's first moment (by the machine's monotonic clock, so that all shards begin together), and tells each
second how the last seconds went. At the end it writes its result.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402  # gevent and gRPC must be patched first

from grpc.experimental import gevent as grpc_gevent  # type: ignore[attr-defined]  # missing in the stubs

grpc_gevent.init_gevent()

import contextlib
import gc
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment

from keyahead.loadtest.config import Config
from keyahead.loadtest.crowd import Member, members, outcome, recent
from keyahead.loadtest.figures import summarize
from keyahead.loadtest.plugins import plugin
from keyahead.loadtest.users import Stage, TypistUser

NICENESS = -10
"""Taken where the system allows it. On one machine with the service, the generator stands for editors that have processors of their own."""
_SHOW_EVERY_S, _SHOW_LAST_S = 1.0, 15.0
_SPAWN_POLL_S = 0.02


def main(config_file: str, shard: int, result_file: str) -> None:
    """Run one shard to its end."""
    with contextlib.suppress(PermissionError):
        os.nice(NICENESS)
    logging.getLogger("locust").setLevel(logging.WARNING)
    config = Config.from_json(json.loads(Path(config_file).read_text()))
    crowd = members(config, shard)
    plugins = [plugin(config.target, member.typist.plan.typist, config.run_id) for member in crowd]
    # The plans are many small objects that live as long as the process: let the collector not look through them during the run.
    gc.collect()
    gc.freeze()
    _run(Stage(zip(crowd, plugins, strict=True)), crowd)
    Path(result_file).write_text(json.dumps({**outcome(crowd), "niceness": os.nice(0)}))


def _run(stage: Stage, crowd: Sequence[Member]) -> None:
    """Let Locust run a user for each typist until all are done, or the parent is gone."""
    TypistUser.stage = stage
    runner = Environment(user_classes=[TypistUser]).create_local_runner()
    runner.start(len(crowd), spawn_rate=len(crowd))
    while runner.user_count < len(crowd):
        gevent.sleep(_SPAWN_POLL_S)
    parent = os.getppid()
    _say({"ready": True})
    stage.begin(float(sys.stdin.readline()))
    while runner.user_count and os.getppid() == parent:
        gevent.sleep(_SHOW_EVERY_S)
        _show(stage, crowd)
    runner.quit()


def _show(stage: Stage, crowd: Sequence[Member]) -> None:
    now_s = stage.now_s()
    if now_s > 0:
        records, typed = recent(crowd, now_s - _SHOW_LAST_S)
        _say({"now_s": now_s, **summarize(records, typed, min(now_s, _SHOW_LAST_S))})


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201  # for the parent


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
