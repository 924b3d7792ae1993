"""What would make a load test's minutes vain, found before it starts. All of it raises UsageError."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from keyahead.cli.output import UsageError
from keyahead.loadtest.config import Target

_CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443}


def writable(files: Mapping[str, Path | None]) -> None:
    """Each file, by its option, can be written."""
    for option, file in files.items():
        if file and (file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK)):
            raise UsageError(f"{file} cannot be written: give {option} a file in a folder that exists and is yours to write.")


def service(address: str) -> None:
    """Somebody listens at host:port."""
    _listens(address, "start it with 'keyahead up', or name another with --address")


def baseline(target: Target) -> None:
    """Somebody listens where the baseline is said to be; a simulated one is started later."""
    if not target.simulated:
        _listens(target.address, f"start it, or leave out --baseline {target.name}={target.address}")


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
