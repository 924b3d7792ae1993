"""The other systems that `keyahead loadtest` can ask for comparison."""

from __future__ import annotations

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


@contextmanager
def baseline(named: str, seed: int) -> Iterator[Target]:
    """The system that the option names; a simulated one runs meanwhile. Raises UsageError."""
    if named.startswith(_SIMULATED):
        with _stand_in(named.removeprefix(_SIMULATED), seed) as target:
            yield target
        return
    kind_and_model, _, url = named.partition("=")
    kind, _, model = kind_and_model.partition(":")
    if kind not in set(Kind) - {Kind.KEYAHEAD} or not url.startswith(("http://", "https://")):
        raise UsageError(f"There is no baseline {named!r}: give KIND=URL, KIND:MODEL=URL or {_SIMULATED}NAME, as --help lists them.")
    yield Target(Kind(kind), url, kind_and_model, model)


@contextmanager
def _stand_in(name: str, seed: int) -> Iterator[Target]:
    if name not in LATENCIES:
        raise UsageError(f"Nothing simulated is called {name!r}: choose one of {', '.join(LATENCIES)}.")
    command = [sys.executable, "-P", "-m", "keyahead.loadtest.standin", name, str(seed)]
    process = subprocess.Popen(tethered(*command), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout  # noqa: S101  # asked for above
        url = process.stdout.readline().strip()
        if not url:
            raise CommandError("The stand-in did not start: see above.")
        kind = Kind.CHAT if name == "chat" else Kind.OPENAI
        yield Target(kind, url, f"simulated {name} (perfect answers)", simulated=True)
    finally:
        process.kill()
        with process:
            pass
