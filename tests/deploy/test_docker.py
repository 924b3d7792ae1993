"""The images: linted, complete, and the service's built and run as far as that goes without Docker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lock_subset import subset
from rehearse_image import rehearse, stages

from tests.deploy.policies import OF_THE_ENGINE, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
DIGEST = "sha256:" + "5" * 64
IMPORTED = {
    "service": "import keyahead.cli.serve, keyahead.cli.engine, keyahead.service.pipeline, keyahead.service.tracing, keyahead.stack.probes",
    # What the engine needs but triton_model, which only Triton's stub can import.
    "engine-cpu": "import keyahead.cli.cpu, keyahead.engine.cpu.convert, keyahead.engine.cpu.kv_store, keyahead.engine.cpu.loop, "
    "keyahead.engine.cpu.runner, keyahead.engine.cpu.stats, keyahead.engine.cpu.warmup",
    "contract": "import sys; sys.path.insert(0, '.'); import tests.conftest, tests.contract.conftest, pytest_asyncio, pytest_timeout",
}
NAMES_OF_LOADED = """
import json, sys
from importlib.metadata import distributions
loaded = {module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)}
names = {each.name for each in distributions() if any(str(each.locate_file(file)) in loaded for file in each.files or ())}
print(json.dumps(sorted(names)))
"""
OF_NO_NEED = {"attrs", "greenlet", "grpcio-tools", "keyahead"}
OF_REDIS = {"grpcio-reflection", "opentelemetry-api", "opentelemetry-sdk", "opentelemetry-semantic-conventions"}
OPTIONAL = {
    "service": OF_NO_NEED,
    "engine-cpu": {*OF_NO_NEED, *OF_REDIS},
    "contract": {*OF_NO_NEED, *OF_REDIS, "cryptography"},
}
"""Ourselves, and what rich, structlog, grpcio and redis import where it is there."""
FAKE_DOCKER = f"""#!/bin/sh
echo "$@" >> "$FAKE_LOG"
if [ "$2" = imagetools ]; then echo {DIGEST}; fi
"""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    """Not even a hint."""
    run = subprocess.run([Path(sys.executable).parent / "hadolint", path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_hadolint_sees_a_mistake(tmp_path: Path) -> None:
    """A base image without a version, and pip without one."""
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN pip install flask\n")
    run = subprocess.run([Path(sys.executable).parent / "hadolint", tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert "DL3007" in run.stdout
    assert "DL3013" in run.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_has_a_pinned_base_and_a_user_without_rights(path: Path) -> None:
    """The base comes from an argument without a default, so that no build goes without pin.sh; the last user is 10001."""
    lines = path.read_text().splitlines()
    bases = {line.split()[1] for line in lines if line.startswith("FROM")}
    assert bases <= {"${PYTHON_BASE}", "${TRITON_BASE}"}
    assert [line for line in lines if line.startswith("ARG")] == [f"ARG {base[2:-1]}" for base in bases]
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert not [line for line in lines if line.startswith("ADD")]


@pytest.mark.parametrize("image", IMPORTED)
def test_the_list_of_packages_is_complete(image: str) -> None:
    """Everything that the image's programs import is in it, by the lock's own notes of who needs whom."""
    run = subprocess.run([sys.executable, "-c", IMPORTED[image] + NAMES_OF_LOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {re.sub(r"[-_.]+", "-", name).lower() for name in json.loads(run.stdout.splitlines()[-1])}
    names = {line for line in (DOCKER / f"{image}.txt").read_text().splitlines() if not line.startswith("#")}
    installed = set(re.findall(r"^([A-Za-z0-9._-]+)==", subset(names, (ROOT / "requirements.lock").read_text()), re.MULTILINE))
    assert loaded - installed <= OPTIONAL[image]


def test_what_a_package_needs_comes_with_it_and_nothing_else() -> None:
    """Through several steps; a name that is not there is refused."""
    lock = "a==1 \\\n    --hash=sha256:1\n    # via keyahead (pyproject.toml)\nb==2 \\\n    --hash=sha256:2\n    # via a\n"
    lock += (
        "c==3 \\\n    --hash=sha256:3\n    # via\n    #   b\n    #   d\nd==4 \\\n    --hash=sha256:4\n    # via keyahead (pyproject.toml)\n"
    )
    assert re.findall(r"^\w(?===)", subset({"a"}, lock), re.MULTILINE) == ["a", "b", "c"]
    assert "--hash=sha256:3" in subset({"b"}, lock)
    with pytest.raises(ValueError, match="has no e"):
        subset({"e"}, lock)


def test_the_service_is_built_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every RUN of its Dockerfile, with hashes, in an empty virtual environment; what comes out says what it lacks."""
    monkeypatch.setenv("PIP_NO_COMPILE", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    programs = rehearse("service", tmp_path)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)}
    run = subprocess.run([programs / "keyahead", "serve"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "KEYAHEAD_MODEL_FOLDER" in run.stderr
    assert not list(programs.parent.glob("lib/python3.11/site-packages/openvino*"))


@pytest.mark.parametrize("image", ["engine-cpu", "contract"])
def test_the_images_are_built_alike(image: str) -> None:
    """By the service's steps, with their own lists. The engine's then gets Triton: scripts/rehearse_image.py builds it, in some minutes."""
    service, other = ([f"{word} {rest}" for word, rest in stages(each)[0]] for each in ("service", image))
    assert other[:-1] == [line.replace("service.txt", f"{image}.txt") for line in service[:-1]]
    assert other[-1].startswith(service[-1])
    assert other[-1].endswith("keyahead cpu install") is (image == "engine-cpu")


@pytest.mark.parametrize("name", ["build.sh", "pin.sh"])
def test_shellcheck_has_nothing_to_say(shellcheck: Path, name: str) -> None:
    """Not even a hint."""
    run = subprocess.run([shellcheck, DOCKER / name], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def docker(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command on a host whose docker keeps a record, in `folder`."""
    (folder / "docker").write_text(FAKE_DOCKER)
    (folder / "docker").chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "FAKE_LOG": str(folder / "log"), "BASES": str(folder / "bases.env")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_an_image_is_built_with_pinned_bases_and_an_sbom(tmp_path: Path) -> None:
    """pin.sh asks for the digests, and build.sh takes them."""
    pinned = docker(tmp_path, DOCKER / "pin.sh")
    assert len(re.findall(rf"^\w+=[\w./-]+:[\w.-]+@{DIGEST}$", pinned.stdout, re.MULTILINE)) == 3
    (tmp_path / "bases.env").write_text(pinned.stdout)
    assert docker(tmp_path, DOCKER / "build.sh", "registry.example.com/keyahead", "1", "service", "engine-gpu").returncode == 0
    builds = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("buildx build")]
    assert len(builds) == 2
    for build in builds:
        assert "--sbom=true --provenance=mode=max" in build
        assert f"PYTHON_BASE=docker.io/library/python:3.11-slim-bookworm@{DIGEST}" in build


@pytest.mark.parametrize("bases", [None, "PYTHON_BASE=python:3.11-slim\nTRITON_BASE=triton\n"])
def test_nothing_is_built_on_a_base_that_is_not_pinned(tmp_path: Path, bases: str | None) -> None:
    """Docker is not even called."""
    if bases:
        (tmp_path / "bases.env").write_text(bases)
    run = docker(tmp_path, DOCKER / "build.sh", "r", "1", "service")
    assert run.returncode == 2
    assert "pin.sh" in run.stderr
    assert not (tmp_path / "log").exists()


WRITERS = {"model", "probe", "check", "engine", "finish"}
"""Make what is served."""


def compose(*names: str) -> dict[str, dict[str, Any]]:
    """The containers of these files, the later ones' fields over the earlier ones'."""
    merged: dict[str, dict[str, Any]] = {}
    for name in names:
        for service, fields in yaml.safe_load((DOCKER / name).read_text())["services"].items():
            old = merged.setdefault(service, {})
            environment = {**old.get("environment", {}), **fields.get("environment", {})}
            old.update(fields, environment=environment)
    return merged


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")], ids=["cpu", "gpu"])
def test_composed_containers_are_as_hard_as_those_in_a_cluster(names: tuple[str, ...]) -> None:
    """No root, no writable root file system, no capability, limits, no way out but for the service's published port, no secret in clear."""
    for name, each in compose(*names).items():
        assert each["user"] == "10001:10001", name
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]
        assert each["mem_limit"]
        assert each["cpus"]
        assert each["networks"] == (["inside", "outside"] if name == "service" else ["inside"])
        own = {variable for variable in each["environment"] if variable.startswith("KEYAHEAD_")}
        assert own <= (SETTINGS if name == "service" else OF_THE_ENGINE), name
        assert each["environment"].get("KEYAHEAD_CACHE_KEY", "${").startswith("${")
        assert not [mount for mount in each.get("volumes", ()) if not mount.endswith(":ro") and name not in WRITERS]
    assert yaml.safe_load((DOCKER / "compose.yaml").read_text())["networks"]["inside"] == {"internal": True}


def test_only_what_the_images_are_made_of_is_sent_to_docker() -> None:
    """Every file that a Dockerfile copies is let through by .dockerignore, and nothing is by default."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    steps = [rest.split()[:-1] for image in IMPORTED for stage in stages(image) for step, rest in stage if step == "COPY"]
    copied = {word for words in steps for word in words if "--from=build" not in words}
    assert copied <= {*allowed, *(f"deploy/docker/{image}.txt" for image in IMPORTED)}
    assert "*" in lines
    assert all(os.path.lexists(ROOT / each) or "*" in each for each in allowed)
