"""The interpreter's shared library, which Triton's Python stub links to and a Python may come without."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from keyahead.engine.store import Progress, SetupError
from keyahead.stack import debs

NAME = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
_PACKAGE = f"libpython{sys.version_info.major}.{sys.version_info.minor}"


def find() -> Path | None:
    """The library beside this interpreter, or the one fetched earlier."""
    for folder in (Path(sysconfig.get_config_var("LIBDIR")), debs.folder_of(_PACKAGE)):
        if path := _in(folder):
            return path
    return None


def install(progress: Progress, *, offline: bool) -> Path:
    """The library, from Debian's package if this interpreter has none. Raises SetupError."""
    if path := find():
        return path
    cure = f"install {_PACKAGE}, or use a Python that was built with --enable-shared"
    folder = debs.unpacked(_PACKAGE, alone=True, offline=offline, cure=cure, progress=progress)
    if path := _in(folder):
        return path
    raise SetupError(f"Debian's package {_PACKAGE} in {folder} has no {NAME}: {cure}.")


def _in(folder: Path) -> Path | None:
    return next((path for path in (folder / NAME, *folder.glob(f"usr/lib/*/{NAME}")) if path.exists()), None)
