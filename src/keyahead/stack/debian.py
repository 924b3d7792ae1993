"""Debian packages without root: what is missing is downloaded by apt-get, which checks its signatures, and unpacked into a folder.

Only the standard library is imported, because scripts/bootstrap.py uses this module before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_URI_LINE = re.compile(r"^'[^']+' (?P<package>[^_ ]+)_\S+\.deb (?P<size>\d+) ", re.MULTILINE)


class AptError(Exception):
    """Why a package cannot be had; a clause without a full stop."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be downloaded."""

    packages: tuple[str, ...]
    size_bytes: int


class Apt:
    """apt-get with lists and cache of its own where the system's are missing or stale; the system itself is never changed."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the lists and the downloads."""
        self._folder = folder
        self._options = [
            "-o=Debug::NoLocking=1",
            "-o=APT::Sandbox::User=root",  # as root, apt would download as a user who may not write to our folder
            f"-o=Dir::Cache={folder / 'cache'}",
        ]

    def plan(self, *packages: str, alone: bool = False) -> Plan:
        """The packages and, unless `alone`, what the system lacks of their dependencies. Raises AptError."""
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise AptError("this system has no apt-get and dpkg-deb")
        (self._folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        try:
            return self._plan(packages, alone=alone)
        except AptError:  # a new system has no package lists yet
            self._refresh()
            return self._plan(packages, alone=alone)

    def unpack(self, plan: Plan, target: Path) -> None:
        """Download the packages and unpack their files below `target`, which exists. Raises AptError."""
        downloads = self._folder / "debs"
        downloads.mkdir(parents=True, exist_ok=True)
        try:
            self._run("download", *plan.packages, cwd=downloads)
        except AptError:  # the system's lists may name versions that the mirrors have replaced
            self._refresh()
            self._run("download", *plan.packages, cwd=downloads)
        for file in sorted(downloads.glob("*.deb")):
            _check(subprocess.run(["dpkg-deb", "--extract", file, target], capture_output=True, text=True, check=False))
        shutil.rmtree(self._folder)

    def _plan(self, packages: tuple[str, ...], *, alone: bool) -> Plan:
        action = ["download"] if alone else ["install", "--yes", "--no-install-recommends", "--reinstall"]
        listing = self._run(*action, "--print-uris", "-qq", *packages)
        found = {match["package"]: int(match["size"]) for match in _URI_LINE.finditer(listing)}
        if not found:
            raise AptError(f"apt-get offers no package {packages[0]}")
        return Plan(tuple(found), sum(found.values()))

    def _refresh(self) -> None:
        lists = self._folder / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        option = f"-o=Dir::State::Lists={lists}"
        if option not in self._options:
            self._options.append(option)
        self._run("update", "-qq")

    def _run(self, *arguments: str, cwd: Path | None = None) -> str:
        command = ["apt-get", *self._options, *arguments]
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        return _check(subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False))


def _check(run: subprocess.CompletedProcess[str]) -> str:
    if run.returncode:
        reason = next((line for line in run.stderr.splitlines() if line.startswith("E:")), "it gave no reason")
        raise AptError(f"{Path(run.args[0]).name} failed ({reason.removeprefix('E:').strip()[:200]})")
    return run.stdout
