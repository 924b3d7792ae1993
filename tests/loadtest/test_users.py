"""Typists as Locust users."""

from __future__ import annotations

import subprocess
import sys

MANY = 40
WAIT_AT_ONCE = f"""
from keyahead.loadtest.users import Stage  # brings Locust, which patches the standard library

import os, gevent

Stage(iter(()))
ours, theirs = os.pipe()
pool = gevent.get_hub().threadpool
with gevent.Timeout(20):
    waiting = [pool.spawn(os.read, ours, 1) for _ in range({MANY})]
    os.write(theirs, b"." * {MANY})
    gevent.joinall(waiting, raise_error=True)
"""


def test_no_stream_waits_for_another() -> None:
    """Each takes a thread of gevent's pool, where gRPC waits; the pool is not full with the first ten."""
    ran = subprocess.run([sys.executable, "-P", "-c", WAIT_AT_ONCE], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
