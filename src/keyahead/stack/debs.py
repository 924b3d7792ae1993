"""Debian packages kept unpacked in the user's cache, for a system that lacks them and a user who may not install them."""

from __future__ import annotations

from pathlib import Path

from keyahead.engine.store import Progress, SetupError, atomic_folder, cache_dir, growth, locked, require_free_space
from keyahead.stack.debian import Apt, AptError

_UNPACKED_PER_BYTE = 5
"""A .deb is compressed about four to one; and the .deb itself lies beside it meanwhile."""


def folder_of(name: str) -> Path:
    """Where the package's files are, unpacked or not yet."""
    return cache_dir() / "debian" / name


def unpacked(*packages: str, alone: bool, offline: bool, cure: str, progress: Progress) -> Path:
    """The folder with the packages' files, fetched unless there; `alone` leaves out their dependencies.

    Raises a SetupError that ends in `cure`.
    """
    target = folder_of(packages[0])
    with locked(target, packages[0], progress):
        if not target.exists():
            if offline:
                raise SetupError(f"{packages[0]} is missing and downloads are switched off: {cure}.")
            try:
                _fetch(packages, target, progress, alone=alone)
            except AptError as error:
                raise SetupError(f"{packages[0]} is missing and cannot be downloaded because {error}: {cure}.") from error
    return target


def _fetch(packages: tuple[str, ...], target: Path, progress: Progress, *, alone: bool) -> None:
    with atomic_folder(target) as folder:
        work = folder / ".apt"
        apt = Apt(work)
        with progress.step(f"Looking up {packages[0]} with apt-get", None):
            plan = apt.plan(*packages, alone=alone)
        require_free_space(target, _UNPACKED_PER_BYTE * plan.size_bytes, f"Unpacking {packages[0]}")
        with progress.step(f"Downloading {', '.join(plan.packages)}", plan.size_bytes) as advance, growth(work / "debs", advance):
            apt.unpack(plan, folder)
        for path in list(folder.rglob("*")):
            if path.is_symlink() and not path.exists():  # it points into a package that is not here, such as another one's documentation
                path.unlink()
