"""Makes .venv from requirements.lock: with any Python 3.11, without root, and in an instant when it is there already.

Only the standard library is used; the syntax is plain enough for an older Python to get as far as the search for a right one. Run again
after an interruption it goes on: pip keeps what it has downloaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "keyahead.stamp"
VERSION = (3, 11)
FREE_BYTES = 3_000_000_000
"""A finished .venv has 2 GB; pip's downloads lie beside it meanwhile."""

CURES = [
    (r"No space left on device|Errno 28", "The disk is full: free about 3 GB where {root} and TMPDIR are, and run the command again."),
    (r"DO NOT MATCH THE HASHES", "A downloaded package has a wrong checksum: run 'pip cache purge' and try again, or check pip's index."),
    (
        r"NewConnectionError|NameResolutionError|ConnectTimeout|Temporary failure|No matching distribution|ReadTimeout|ProxyError",
        "pip cannot download a package ({line}): check the network and pip's index, and run the command again; it goes on from here.",
    ),
]
"""What pip says when it fails, and the cure."""


MEGABYTES = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}


class BootstrapError(Exception):
    """Why there is no .venv; one sentence with the cure."""


def main() -> int:
    """Returns the exit code."""
    try:
        if sys.version_info[:2] != VERSION:
            os.execv(other_python(), [other_python(), __file__])  # noqa: S606
        with LOCK.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another make may be at it
            if not is_current():
                set_up()
    except BootstrapError as error:
        print(f"keyahead: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped during the set-up: the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def other_python() -> str:
    """A Python of the right version on PATH that runs."""
    name = "python{}.{}".format(*VERSION)
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]:
        path = str(Path(folder) / name)
        if os.access(path, os.X_OK) and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    raise BootstrapError(f"There is no {name} on PATH: install it (Debian 12: apt install python3), or put one on PATH.")


def wanted_state() -> str:
    """A digest of all that .venv depends on."""
    files = b"".join(path.read_bytes() for path in (LOCK, ROOT / "pyproject.toml"))
    return hashlib.sha256(files + f"{ROOT} {sys.base_prefix} {sys.version}".encode()).hexdigest()


def is_current() -> bool:
    """Whether .venv is finished and made from these files by this Python."""
    return STAMP.exists() and STAMP.read_text() == wanted_state() and (VENV / "bin" / "keyahead").exists()


def set_up() -> None:
    """Make or mend .venv."""
    if shutil.disk_usage(ROOT).free < FREE_BYTES:
        raise BootstrapError(
            f"Less than {FREE_BYTES / 1e9:.0f} GB are free on the disk of {ROOT}: free some space and run the command again."
        )
    if not runs([str(VENV / "bin" / "python"), "-m", "pip", "--version"]):
        make_venv()
    started = time.monotonic()
    install_packages(["--requirement", str(LOCK), "--require-hashes"], LOCK.read_text().count("=="))
    install_packages(["--no-deps", "--no-build-isolation", "--editable", str(ROOT)], 1)
    STAMP.write_text(wanted_state())
    say(f".venv is ready ({time.monotonic() - started:.0f} s)")


def make_venv() -> None:
    """An empty virtual environment with pip; without Debian's python3-venv, pip comes from a package that needs no root."""
    say("Making .venv")
    bundled = importlib.util.find_spec("ensurepip") is not None
    options = [] if bundled else ["--without-pip"]
    run = subprocess.run([sys.executable, "-m", "venv", "--clear", *options, str(VENV)], capture_output=True, text=True, check=False)
    if run.returncode:
        raise BootstrapError(f"Cannot make {VENV} ({gist(run.stdout + run.stderr)}): mend that and run the command again.")
    if not bundled:
        with tempfile.TemporaryDirectory() as folder:
            install_pip(Path(folder))


def install_pip(folder: Path) -> None:
    """Put pip into .venv from Debian's package of its wheel."""
    sys.path.insert(0, str(ROOT / "src"))
    from keyahead.stack.debian import Apt, AptError  # noqa: PLC0415 - of the standard library only

    say("Fetching pip with apt-get, since this Python has no ensurepip")
    try:
        apt = Apt(folder / "apt")
        apt.unpack(apt.plan("python3-pip-whl", alone=True), folder)
    except AptError as error:
        raise BootstrapError(f"This Python has no ensurepip, and {error}: install python3-venv and run the command again.") from error
    wheel = next(folder.glob("usr/share/python-wheels/pip-*.whl"))
    run = subprocess.run(
        [str(VENV / "bin" / "python"), str(wheel / "pip"), "install", "--no-index", "--quiet", str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise BootstrapError(f"Cannot install pip ({gist(run.stderr)}): install python3-venv and run the command again.")


def install_packages(arguments: list[str], total: int) -> None:
    """Run pip install and show how far it is."""
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command = [str(VENV / "bin" / "python"), "-P", "-m", "pip", "install", *options, *arguments]
    bar, output = Bar(total), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout or ():
            output.append(line)
            bar.read(line)
    bar.close()
    if pip.returncode:
        raise BootstrapError(explain("".join(output)))


class Bar:
    """Reads pip's output and shows packages done and megabytes loaded: on a terminal as a bar, elsewhere a line for each tenth."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._seen = 0
        self._megabytes = 0.0
        self._tenth = 0
        self._live = sys.stderr.isatty()

    def read(self, line: str) -> None:
        """Take in one line of pip's."""
        if re.match(r"Collecting |Requirement already satisfied|Obtaining ", line):
            self._seen += 1
            self._show()
        elif size := re.search(r"^\s*Downloading .*\(([\d.]+) ([kMG]B)\)", line):
            self._megabytes += float(size[1]) * MEGABYTES[size[2]]
        elif line.startswith("Installing collected packages"):
            self.close()
            count = line.count(",") + 1
            say(f"Installing {count} package{'s' if count > 1 else ''} ({self._megabytes:.0f} MB downloaded)")

    def close(self) -> None:
        """Leave the line of the bar."""
        if self._live:
            print(file=sys.stderr)
            self._live = False

    def _show(self) -> None:
        text = f"{self._seen} of {self._total} packages, {self._megabytes:.0f} MB downloaded"
        filled = min(10, 10 * self._seen // self._total)
        if self._live:
            print(f"\r[{'#' * filled}{'.' * (10 - filled)}] {text} ", end="", file=sys.stderr, flush=True)
        elif filled > self._tenth and self._total > 1:
            self._tenth = filled
            say(text)


def explain(output: str) -> str:
    """One sentence for pip's failure."""
    for pattern, cure in CURES:
        if re.search(pattern, output):
            return cure.format(root=ROOT, line=gist(output))
    return f"pip failed ({gist(output)}): mend that and run the command again."


def gist(output: str) -> str:
    """The line of an output that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error|fatal", line, re.IGNORECASE)]
    return (errors or lines or ["no reason given"])[-1].removeprefix("ERROR: ").rstrip(".")[:200]


def runs(command: list[str]) -> bool:
    """Whether a program starts and succeeds."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def say(text: str) -> None:
    """Tell the user."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
