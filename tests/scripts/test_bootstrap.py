"""Making .venv: the sentences for what goes wrong, and the lock it is made from."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bootstrap.py"


def load(path: Path) -> ModuleType:
    """The script as a module, with the folder it lies in as its checkout."""
    spec = importlib.util.spec_from_file_location("bootstrap", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project with a lock of one package that no index has."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "small"\nversion = "1"\n')
    (tmp_path / "requirements.lock").write_text(f"nothing-of-this-name==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    return tmp_path


def run(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run the script there, with an index that is empty."""
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(checkout)}
    return subprocess.run(
        [sys.executable, str(checkout / "scripts" / "bootstrap.py")], env=environment, capture_output=True, text=True, check=False
    )


def test_a_package_that_cannot_be_had_is_one_sentence(checkout: Path) -> None:
    """Exit code 2, the package and the cure, no traceback; and .venv does not count as finished."""
    result = run(checkout)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(r"keyahead: pip cannot download a package \(.*nothing-of-this-name.*\): check the network .*", last)
    assert "Traceback" not in result.stderr
    assert not (checkout / ".venv" / "keyahead.stamp").exists()


def test_a_finished_venv_is_used_until_what_it_was_made_from_changes(checkout: Path) -> None:
    """With a right stamp nothing is done; a changed lock makes the stamp wrong."""
    script = load(checkout / "scripts" / "bootstrap.py")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "keyahead").touch()
    script.STAMP.write_text(script.wanted_state())
    assert script.main() == 0
    assert not (checkout / ".venv" / "pyvenv.cfg").exists()
    (checkout / "requirements.lock").write_text("")
    assert not script.is_current()


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "wrong checksum"),
        (
            "WARNING: Retrying after NewConnectionError\nERROR: No matching distribution found for rich",
            "found for rich): check the network",
        ),
        ("something\nerror: cannot do it.", r"pip failed (error: cannot do it)"),
    ],
)
def test_what_pip_says_becomes_a_sentence_with_a_cure(said: str, cure: str) -> None:
    """The common failures by name, any other with pip's own words."""
    assert cure in load(SCRIPT).explain(said)


def test_progress_has_a_size_and_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a long installation prints about ten lines."""
    bar = load(SCRIPT).Bar(100)
    for number in range(100):
        bar.read(f"Collecting package{number}==1.0")
        bar.read("  Downloading package.whl (1.5 MB)")
    bar.read("Installing collected packages: " + ", ".join("ab" for _ in range(100)))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0] == "10 of 100 packages, 14 MB downloaded"
    assert lines[-1] == "Installing 100 packages (150 MB downloaded)"


def test_the_lock_holds_every_dependency_with_hashes_and_names_no_place() -> None:
    """Each line of pyproject is in it; each package is pinned and hashed; no address, no folder, no PyTorch."""
    lock = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE))
    assert len(pins) == lock.count("==")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=~! ;]", each)[0].lower().replace("_", "-") for each in wanted}
    assert names <= set(pins)
    assert {"setuptools", "pip"} <= set(pins)
    assert "torch" not in pins
    assert not re.search(r"://|--find-links|--index-url|--trusted-host", lock)


def test_the_lock_suits_every_python_3_11() -> None:
    """What redis needs below Python 3.11.3 only, Debian 12's, is in a lock that a newer Python made."""
    assert "\nasync-timeout==" in (ROOT / "requirements.lock").read_text()
