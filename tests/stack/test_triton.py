"""Installing Triton, with the real pip and a small wheel that has the layout of the real one."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from keyahead.engine.store import SetupError, SilentProgress
from keyahead.stack import triton

INFO = "nvidia_pytriton-0.7.0.dist-info"
FILES = {
    "pytriton/tritonserver/bin/tritonserver": b"the server",
    "pytriton/tritonserver/backends/python/libtriton_python.so": b"the backend",
    "pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub": b"our stub",
    "pytriton/tritonserver/python_backend_stubs/3.12/triton_python_backend_stub": b"another's stub",
    "nvidia_pytriton.libs/libcrypto.so.3": b"a library",
    "nvidia_pytriton.libs/libpython3-00.13.so.1.0": b"another's library",
    "pytriton/client.py": b"code of no use here",
}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only wheel that pip can find, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "nvidia_pytriton-0.7.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: nvidia-pytriton\nVersion: 0.7.0\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "".join(f"{name},{_record(content)},{len(content)}\n" for name, content in FILES.items()))
    monkeypatch.setattr(triton, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("KEYAHEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


def _record(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def install(*, offline: bool = False) -> triton.Triton:
    """Short for an install that nobody watches."""
    return triton.install(SilentProgress(), offline=offline)


@pytest.mark.usefixtures("wheel")
def test_only_what_is_needed_is_unpacked_and_can_be_run() -> None:
    """The server, the backend with our Python's stub beside it, and the libraries; the wheel itself is not kept."""
    found = install()
    assert found.program.read_bytes() == b"the server"
    assert os.access(found.program, os.X_OK)
    assert (found.backends / "python" / "triton_python_backend_stub").read_bytes() == b"our stub"
    assert os.access(found.stub, os.X_OK)
    kept = {path.read_bytes() for path in found.folder.rglob("*") if path.is_file() and path.name != "RECORD"}
    assert kept == {b"the server", b"the backend", b"our stub", b"a library"}
    assert not list(found.folder.parent.rglob("*.whl"))


def test_a_second_install_needs_no_wheel(wheel: Path) -> None:
    """What is in the cache is used, offline as well."""
    first = install()
    wheel.unlink()
    assert install(offline=True) == first


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"the sewer!"), lambda path: path.unlink()])
def test_damage_is_found(harm: object) -> None:
    """A changed and a missing file are named; an install without damage has none."""
    found = install()
    assert found.damaged() == []
    harm(found.program)  # type: ignore[operator]
    assert found.damaged() == ["pytriton/tritonserver/bin/tritonserver"]


@pytest.mark.usefixtures("wheel")
def test_a_wrong_checksum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another wheel under the same name is not unpacked, and the sentence says so."""
    monkeypatch.setattr(triton, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(SetupError, match=r"has the checksum [0-9a-f]{64}, not 0{64}: "):
        install()
    assert triton.find() is None


def test_no_network_is_one_sentence(wheel: Path) -> None:
    """When pip finds nothing its reason and the cure are told."""
    wheel.unlink()
    with pytest.raises(SetupError, match=r"^pip cannot download nvidia-pytriton==0\.7\.0 \(.*\): check the network"):
        install()


@pytest.mark.usefixtures("wheel")
def test_offline_downloads_nothing() -> None:
    """With an empty cache the sentence says what to do."""
    with pytest.raises(SetupError, match="downloads are switched off: go online once"):
        install(offline=True)


def test_a_full_disk_is_seen_before_the_download(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little space is told with how much is needed."""
    wheel.unlink()
    monkeypatch.setattr(triton, "WHEEL_BYTES", 1 << 60)
    with pytest.raises(SetupError, match=r"Triton needs .* of disk"):
        install()


def test_triton_listens_on_this_machine_only(tmp_path: Path) -> None:
    """Every listener has a loopback address, and HTTP is off."""
    command = triton.command(triton.Triton(tmp_path), tmp_path, triton.Ports(1, 2), "prefix")
    assert "--grpc-address=127.0.0.1" in command
    assert "--metrics-address=127.0.0.1" in command
    assert "--allow-http=false" in command
