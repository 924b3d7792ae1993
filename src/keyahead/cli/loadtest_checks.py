"""What would make a load test's minutes vain, found before it starts. All of it raises UsageError."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from keyahead.cli.output import UsageError
from keyahead.loadtest.config import Target
from keyahead.loadtest.judge import Ask, Failed
from keyahead.loadtest.texts import Passage

_CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443}
_QUESTION = Ask(0, 0.0, Passage("add.py", "python", "def add(a, b):\n    return ", "a + b", "\n"), 0, 0, "")


def writable(files: Mapping[str, Path | None]) -> None:
    """Each file, by its option, can be written."""
    for option, file in files.items():
        if file and (file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK)):
            raise UsageError(f"{file} cannot be written: give {option} a file in a folder that exists and is yours to write.")


def service(address: str) -> None:
    """Somebody listens at host:port."""
    _listens(address, "start it with 'keyahead up', or name another with --address")


def baseline(target: Target) -> None:
    """What the baseline is said to be answers a question; a simulated one is started later."""
    if target.simulated:
        return
    option = f"--baseline {target.name}={target.address}"
    _listens(target.address, f"start it, or leave out {option}")
    from keyahead.loadtest.targets import KEY_VARIABLE, connect  # noqa: PLC0415  # its libraries are slow to load, and few runs have a rival

    try:
        connect(target, 0, "check")(_QUESTION)
    except Failed as error:
        cure = f"look at its URL, its model and {KEY_VARIABLE}, or leave out {option}"
        raise UsageError(f"{target.address} does not complete code ({error}): {cure}.") from None


def _listens(where: str, cure: str) -> None:
    """At host:port, or where a URL says."""
    try:
        url = urlsplit(where if "://" in where else f"//{where}")
        port = url.port or _PORTS.get(url.scheme)
    except ValueError:  # no number, or none of a port
        port = None
    if not port or not url.hostname:
        raise UsageError(f"{where} has no host and port: give both, as HOST:PORT.")
    try:
        socket.create_connection((url.hostname, port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise UsageError(f"Nothing answers at {where} ({error.strerror or error}): {cure}.") from None
