"""The other systems that `keyahead loadtest` can ask for comparison."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from keyahead.cli.output import CommandError, UsageError
from keyahead.engine.tether import tethered
from keyahead.loadtest.config import Kind, Target
from keyahead.loadtest.standin import LATENCIES

_SIMULATED = "simulated:"
HELP = (
    "Also ask this, with the same keys: llama=URL (llama-server as llama.vim asks it), vllm:MODEL=URL, openai:MODEL=URL or chat:MODEL=URL "
    f"(URL up to /v1; key in OPENAI_API_KEY), or {', '.join(_SIMULATED + name for name in LATENCIES)}."
)


def parse(named: str) -> Target:
    """The system that the option names; a simulated one has no address yet. Raises UsageError."""
    if named.startswith(_SIMULATED) and (name := named.removeprefix(_SIMULATED)) in LATENCIES:
        kind = Kind.CHAT if name == "chat" else Kind.OPENAI
        return Target(kind, "", f"simulated {name} (perfect answers)", name, simulated=True)
    kind_and_model, _, url = named.partition("=")
    name, _, model = kind_and_model.partition(":")
    if name not in set(Kind) - {Kind.KEYAHEAD} or not url.startswith(("http://", "https://")):
        raise UsageError(f"There is no baseline {named!r}: give KIND=URL, KIND:MODEL=URL or {_SIMULATED}NAME, as --help lists them.")
    return Target(Kind(name), url, kind_and_model, model)


@contextmanager
def reachable(target: Target, seed: int) -> Iterator[Target]:
    """The system with its address; a simulated one runs meanwhile."""
    if not target.simulated:
        yield target
        return
    command = [sys.executable, "-P", "-m", "keyahead.loadtest.standin", target.model, str(seed)]
    process = subprocess.Popen(tethered(*command), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout  # noqa: S101  # asked for above
        url = process.stdout.readline().strip()
        if not url:
            raise CommandError("The stand-in did not start: see above.")
        yield dataclasses.replace(target, address=url)
    finally:
        process.kill()
        with process:
            pass
