"""Hostile programs in the real sandbox: each ends soon, harms nothing and leaves no process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from keyahead.cli import sandbox as module
from keyahead.cli.sandbox import Limits, Sandbox, SandboxError, Verdict

LIMITS = Limits(wall_s=2.0, cpu_s=1)


def usable() -> list[Sandbox]:
    """The kinds of sandbox that work on this machine, the isolated one first."""
    both = [Sandbox(LIMITS, isolated) for isolated in (True, False)]
    working = []
    for each in both:
        try:
            each.run("")
        except SandboxError:
            continue
        working.append(each)
    return working


@pytest.fixture(params=usable(), ids=lambda each: "isolated" if each.isolated else "plain")
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Each kind of sandbox that works here."""
    kind: Sandbox = request.param
    return kind


def processes_with(mark: str) -> list[int]:
    """Processes whose command line has this mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("x = 1", Verdict.PASSED),
        ("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()", Verdict.PASSED),
        ("assert 1 == 2", Verdict.FAILED),
        ("def (", Verdict.FAILED),
        ("x = '\0'", Verdict.FAILED),
        ("import sys\nsys.exit(0)", Verdict.FAILED),
        ("import os\nos._exit(0)", Verdict.FAILED),
        ("def f(): f()\nf()", Verdict.FAILED),
        ("x = bytearray(1 << 40)", Verdict.MEMORY),
        ("import ctypes\nctypes.string_at(0)", Verdict.CRASH),
        ("import os\nos.abort()", Verdict.CRASH),
        ("while True: pass", Verdict.TIMEOUT),
        ("while True: print('x' * 100_000)", Verdict.TIMEOUT),
        ("import time\ntime.sleep(60)", Verdict.TIMEOUT),
        ("import signal, time\nfor s in (2, 3, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass", None),
    ],
    ids=lambda each: each.value if isinstance(each, Verdict) else None,
)
def test_every_way_to_end_has_its_verdict(sandbox: Sandbox, program: str, verdict: Verdict | None) -> None:
    """The verdict says how the program ended; one that ignores every signal ends all the same."""
    assert sandbox.run(program) in ({verdict} if verdict else {Verdict.TIMEOUT, Verdict.CRASH})


def test_a_fork_bomb_is_bounded_and_leaves_nothing(sandbox: Sandbox) -> None:
    """Forks beyond the limit fail, and whatever was forked is gone afterwards, daemons included."""
    bomb = """
import os, time
born = 0
try:
    while True:
        if os.fork() == 0:
            os.setsid()
            time.sleep(60)
        born += 1
        assert born < 100
except BlockingIOError:
    pass
"""
    assert sandbox.run(bomb) is Verdict.PASSED
    assert processes_with("program.py") == []


def test_a_daemon_does_not_survive(sandbox: Sandbox) -> None:
    """A child that left session and process group, and ignores signals, is gone when the run returns."""
    daemon = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
"""
    assert sandbox.run(daemon) is Verdict.PASSED
    assert processes_with("program.py") == []


def test_the_environment_is_empty_and_the_user_is_not_root(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the environment of the caller is visible, and root is never kept."""
    monkeypatch.setenv("SECRET", "canary")
    program = "import os\nassert set(os.environ) <= {'LC_CTYPE'}, 'PEP 538 sets that one'\nassert os.getuid() and os.geteuid()"
    assert sandbox.run(program) is Verdict.PASSED


def test_input_is_empty(sandbox: Sandbox) -> None:
    """Reading standard input ends at once."""
    assert sandbox.run("import sys\nassert sys.stdin.read() == ''") is Verdict.PASSED


def test_a_big_file_cannot_be_written(sandbox: Sandbox) -> None:
    """The scratch folder takes small files only."""
    program = "with open('ok', 'wb') as f: f.write(bytes(1000))\nwith open('big', 'wb') as f: f.write(bytes({}))"
    assert sandbox.run(program.format(1000)) is Verdict.PASSED
    assert sandbox.run(program.format(2 << 20)) is Verdict.FAILED


def test_isolated_programs_see_neither_files_nor_network(tmp_path: Path) -> None:
    """Behind namespaces there is no file of the user's to read, none to write outside the scratch folder, and no network at all."""
    found = Sandbox.find(LIMITS)
    assert found.isolated, "this machine allows no namespaces, which these checks need"
    secret = tmp_path / "secret"
    secret.write_text("canary")
    secret.chmod(0o644)
    assert found.run(f"import os\nassert not os.path.exists({str(secret)!r})\nassert not os.path.exists('/etc/passwd')") is Verdict.PASSED
    outside = Path(tempfile.gettempdir(), f"keyahead-outside-{os.getpid()}")
    found.run(f"open({str(outside)!r}, 'w').write('x')")
    assert not outside.exists()
    assert found.run("open('/usr/x', 'w')") is Verdict.FAILED
    connect = "import errno, socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError as e: assert e.errno == errno.{}"
    assert found.run(connect.format("ENETUNREACH")) is Verdict.PASSED
    assert found.run(connect.format("ECONNREFUSED")) is Verdict.FAILED


def test_no_folder_is_left(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The temporary folder is removed, also when the program made its own folders unreadable."""
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sandbox.run("import os\nos.mkdir('a')\nos.chmod('a', 0)")
    assert list(tmp_path.iterdir()) == []


def test_descendants_are_ended_without_namespaces() -> None:
    """A subreaper's clean-up ends daemons of daemons, which is all there is where namespaces are not allowed."""
    script = f"""
import importlib.util, os, signal, time
spec = importlib.util.spec_from_file_location("sandbox", {module.__file__!r})
import sys
sandbox = sys.modules["sandbox"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
sandbox._prctl(sandbox._PR_SET_CHILD_SUBREAPER, 1)
read, write = os.pipe()
if os.fork() == 0:
    for _ in range(3):
        os.setsid()
        os.fork()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
    os._exit(0)
time.sleep(0.2)
os.close(write)
sandbox.end_descendants()
assert os.read(read, 1) == b"", "end of file: nobody holds the other end any more"
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True, timeout=20)


def test_a_warden_that_dies_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report means that the run went wrong, never that it passed."""
    monkeypatch.setattr(module, "_run_warden", lambda *_: b"")
    assert Sandbox(LIMITS, isolated=True).run("") is Verdict.CRASH


def test_no_sandbox_is_an_error_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither kind works the error says what to do."""
    monkeypatch.setattr(module, "_run_warden", lambda *_: b'{"error": "unshare: not permitted"}')
    with pytest.raises(SandboxError, match="run as an ordinary user, or allow unprivileged user namespaces"):
        Sandbox.find(LIMITS)
