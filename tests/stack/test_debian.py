"""Debian packages without root, with a scripted apt-get and the real dpkg-deb."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from keyahead.engine.store import SetupError, SilentProgress
from keyahead.stack import debs
from keyahead.stack.debian import Apt, AptError, Plan

APT_GET = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
  *update*) touch {fresh}; exit 0 ;;
esac
if [ ! -e {fresh} ]; then echo "E: Unable to locate package tool" >&2; exit 100; fi
case "$*" in
  *print-uris*) echo "'mirror:/pool/t/tool_1.0-1+b2_amd64.deb' tool_1.0-1+b2_amd64.deb {size} SHA256:00" ;;
  *download*) cp {deb} . ;;
esac
"""


@pytest.fixture
def apt_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get on PATH that knows one package, tool, once its lists are fresh; what it was asked is in the file."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("only on Debian and its kin")
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN" / "control").write_text(
        "Package: tool\nVersion: 1.0-1+b2\nArchitecture: amd64\nMaintainer: me\nDescription: a tool\n"
    )
    (source / "usr" / "bin").mkdir(parents=True)
    (source / "usr" / "bin" / "tool").write_text("I am a tool")
    (source / "usr" / "bin" / "elsewhere").symlink_to("/nowhere/else")
    deb = tmp_path / "tool_1.0-1+b2_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", source, deb], capture_output=True, check=True)
    tools = tmp_path / "bin"
    tools.mkdir()
    script = tools / "apt-get"
    log = tmp_path / "log"
    script.write_text(APT_GET.format(log=log, fresh=tmp_path / "fresh", deb=deb, size=deb.stat().st_size))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setenv("KEYAHEAD_CACHE", str(tmp_path / "cache"))
    return log


def test_a_system_without_package_lists_gets_some_of_its_own(apt_log: Path, tmp_path: Path) -> None:
    """A new system's apt-get knows no package until lists are fetched, into a folder of ours."""
    plan = Apt(tmp_path / "apt").plan("tool")
    assert plan.packages == ("tool",)
    assert plan.size_bytes > 0
    update = next(line for line in apt_log.read_text().splitlines() if "update" in line)
    assert f"Dir::State::Lists={tmp_path / 'apt' / 'lists'}" in update


@pytest.mark.usefixtures("apt_log")
def test_packages_are_unpacked_once_into_the_cache() -> None:
    """The files are there, links that lead nowhere are not, and nothing else is left."""
    folder = debs.unpacked("tool", alone=True, offline=False, cure="x", progress=SilentProgress())
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["tool"]
    assert debs.unpacked("tool", alone=True, offline=True, cure="x", progress=SilentProgress()) == folder


@pytest.mark.usefixtures("apt_log")
def test_offline_downloads_nothing(apt_log: Path) -> None:
    """The sentence names the package and the cure, and apt-get is not asked."""
    with pytest.raises(SetupError, match=r"tool is missing and downloads are switched off: install it\.$"):
        debs.unpacked("tool", alone=True, offline=True, cure="install it", progress=SilentProgress())
    assert not apt_log.exists()


def test_without_apt_the_cure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On another system the operator has to install the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KEYAHEAD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SetupError, match=r"this system has no apt-get and dpkg-deb: install it\.$"):
        debs.unpacked("tool", alone=True, offline=False, cure="install it", progress=SilentProgress())
    assert not debs.folder_of("tool").exists()


def test_a_failing_apt_get_is_quoted(apt_log: Path, tmp_path: Path) -> None:
    """What it says is wrong is part of the error."""
    script = tmp_path / "bin" / "apt-get"
    script.write_text("#!/bin/sh\necho 'E: Could not resolve the mirror' >&2\nexit 100\n")
    with pytest.raises(AptError, match="Could not resolve the mirror"):
        Apt(tmp_path / "apt").unpack(Plan(("tool",), 1), tmp_path)
    assert not apt_log.exists()
