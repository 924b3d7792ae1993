"""Rehearses the build of an image without Docker: python scripts/rehearse_image.py IMAGE FOLDER [LOCK]

The build stage of deploy/docker/IMAGE.Dockerfile is followed line by line in FOLDER: what it copies is copied, what it runs is run, with
/build and /opt inside FOLDER, and with this Python in the place of the base image's. What the base image lacks is not seen.
LOCK stands for requirements.lock.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def stages(image: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(instruction, rest) of the stage that builds, and of that which is shipped, each after FROM."""
    text = (ROOT / "deploy" / "docker" / f"{image}.Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    instructions = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]
    first, second = (index for index, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[first + 1 : second], instructions[second + 1 :]


def rehearse(image: str, folder: Path, lock: Path = ROOT / "requirements.lock") -> Path:
    """Follow the build stage; the folder with the image's programs. Raises CalledProcessError if a line fails."""
    place = folder
    for word, rest in stages(image)[0]:
        if word == "WORKDIR":
            place = folder / rest.lstrip("/")
            place.mkdir(parents=True)
        elif word == "COPY":
            _copy(rest.split(), place, lock)
        elif word == "RUN":
            subprocess.run(["sh", "-euc", _moved(rest, folder)], cwd=place, check=True)
        else:
            raise ValueError(f"{image}.Dockerfile has {word} in its build stage, which cannot be rehearsed.")
    return folder / "opt" / "keyahead" / "bin"


def _copy(words: list[str], place: Path, lock: Path) -> None:
    *sources, target = words
    for source in sources:
        path = lock if source == "requirements.lock" else ROOT / source
        if path.is_dir():
            shutil.copytree(path, place / target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(path, place / target / Path(source).name)


def _moved(command: str, folder: Path) -> str:
    """The command with its folders and its Python replaced by ours, and with pip's cache, which an image must not hold, but a host may."""
    inside = re.sub(r"(?<![\w.])/opt/", f"{folder}/opt/", command.replace(" --no-cache-dir", ""))
    return re.sub(r"(^|&& )python ", rf"\1{sys.base_prefix}/bin/python3.11 ", inside)


if __name__ == "__main__":
    rehearse(sys.argv[1], Path(sys.argv[2]).absolute(), *map(Path, sys.argv[3:]))
