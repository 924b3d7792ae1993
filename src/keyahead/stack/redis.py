"""A Redis server of our own: a cache in memory, reached through a socket that only this user can open."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from keyahead.engine.store import Progress, SetupError
from keyahead.stack import debs

_CURE = "install redis-server, give a server of yours with --redis-url, or go without with --no-redis"
_MAX_MEMORY = "384mb"
"""128 MB for the engine's KV blocks (`kv_store_mb`), 18 prompts of 600 tokens; the rest for some 200,000 suggestions of about 1 kB."""
_MAX_SOCKET_PATH = 107
"""sun_path of unix(7), less the final zero."""


@dataclass(frozen=True, slots=True)
class RedisProgram:
    """A redis-server that runs on this machine."""

    path: Path
    libraries: tuple[Path, ...] = ()
    """Folders of the libraries that came with it."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables it needs beside the usual ones."""
        return {"LD_LIBRARY_PATH": ":".join(map(str, self.libraries))} if self.libraries else {}


def find() -> RedisProgram | None:
    """The server on PATH, or the one fetched earlier."""
    if path := shutil.which("redis-server"):
        return RedisProgram(Path(path))
    folder = debs.folder_of("redis-server")
    return _in(folder) if folder.exists() else None


def install(progress: Progress, *, offline: bool) -> RedisProgram:
    """A server that has been seen to run; fetched from Debian's packages if there is none. Raises SetupError."""
    # Both are named because the program of redis-server is a link to one of redis-tools, which may be installed alone.
    program = find() or _in(debs.unpacked("redis-server", "redis-tools", alone=False, offline=offline, cure=_CURE, progress=progress))
    version(program)
    return program


def version(program: RedisProgram) -> str:
    """What it says of itself. Raises SetupError if it does not run."""
    try:
        environment = {**os.environ, **program.environment}
        run = subprocess.run([program.path, "--version"], env=environment, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"{program.path} does not run on this machine ({error}): {_CURE}.") from error
    return run.stdout.strip()


def command(program: RedisProgram, socket: Path, port: int) -> list[str]:
    """How to start it: on the socket and, unless 0, on a loopback port; nothing is ever written to disk. Raises SetupError."""
    if len(str(socket)) > _MAX_SOCKET_PATH:
        raise SetupError(f"The path {socket} is too long for a socket: point TMPDIR at a folder with a shorter name.")
    options = {
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "bind": "127.0.0.1",
        "port": str(port),
        "save": "",
        "appendonly": "no",
        "maxmemory": _MAX_MEMORY,
        "maxmemory-policy": "allkeys-lfu",
        "dir": str(socket.parent),
    }
    return [str(program.path), *(word for name, value in options.items() for word in (f"--{name}", value))]


def _in(folder: Path) -> RedisProgram:
    libraries = (path for path in (folder / "usr" / "lib").glob("*-linux-gnu") if path.is_dir())
    return RedisProgram(folder / "usr" / "bin" / "redis-server", tuple(libraries))
