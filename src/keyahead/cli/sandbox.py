"""Runs a Python program nobody has read, such as one a model wrote, so that it can neither harm nor outlive its run.

This file is both sides. Imported, it is `Sandbox`, which starts a fresh interpreter on this same file; run as a script, it is the warden
in that interpreter: it walls itself off, starts the program in a third interpreter, waits, and reports. The warden needs only the standard
library, as it runs with `-I -S`.

Walls, where the kernel allows namespaces: no network, a process tree of its own (which the kernel ends as a whole), and a file system that
has only system folders and the interpreter, both read-only, and a small scratch folder. Elsewhere the program still has an empty
environment, a scratch folder and resource limits, and whatever it started is hunted down at the end; `Sandbox.isolated` says which it is.
It never runs as root: root becomes `nobody`.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

_PROGRAM = "program.py"
_NOBODY = 65534
_PASSED, _MEMORY, _NOT_STARTED = 113, 112, 111
"""Exit codes of the program's interpreter. Reaching the end has one of its own, so that a program that calls sys.exit(0) does not pass."""
_RUNNER = f"""
import os
try:
    with open("{_PROGRAM}", encoding="utf-8") as file:
        source = file.read()
    exec(compile(source, "{_PROGRAM}", "exec"), {{"__name__": "__main__"}})
except MemoryError:
    os._exit({_MEMORY})
os._exit({_PASSED})
"""
_GRACE_S = 5.0
"""Seconds beyond the program's own limit after which the warden itself is taken for dead."""

# From the kernel's linux/sched.h, linux/mount.h, linux/fcntl.h and linux/prctl.h; 442 is mount_setattr(2) on every architecture.
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 0x1
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38


class SandboxError(Exception):
    """No program can be run safely on this machine; the text is one sentence that says why and what to do."""


class Verdict(enum.Enum):
    """How a program ended."""

    PASSED = "passed"
    """It reached its end."""
    FAILED = "failed"
    """It raised, exited early or does not compile."""
    TIMEOUT = "timeout"
    """It used up its wall-clock or processor time."""
    MEMORY = "memory"
    """It asked for more memory than it may have."""
    CRASH = "crash"
    """Its interpreter died of a signal."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. The time is generous beside the 3 s of HumanEval's own harness, as the models share the processor."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 512 << 20
    """Address space of each of its processes."""
    processes: int = 16
    """Processes and threads; on kernels before 5.14 those of its user elsewhere count, too."""
    file_bytes: int = 1 << 20
    """Size of one file; the scratch folder holds sixteen times that."""
    open_files: int = 64


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A place to run programs in; `find` gives the safest one this machine allows."""

    limits: Limits
    isolated: bool
    """Whether namespaces wall the program off from the network, the user's files and other processes."""

    @classmethod
    def find(cls, limits: Limits | None = None) -> Sandbox:
        """The safest sandbox in which a trivial program passes.

        Raises:
            SandboxError: there is none.
        """
        for isolated in (True, False):
            sandbox = cls(limits or Limits(), isolated)
            with contextlib.suppress(SandboxError):
                if sandbox.run("") is Verdict.PASSED:
                    return sandbox
        raise SandboxError(
            f"No sandbox works here: {_interpreter()} cannot be started behind namespaces, nor without them by a user other than root; "
            "run as an ordinary user, or allow unprivileged user namespaces."
        )

    def run(self, program: str) -> Verdict:
        """Runs a program to its end or to a limit. Its output is thrown away. When this returns, nothing of it is left.

        Raises:
            SandboxError: it could not be started.
        """
        with tempfile.TemporaryDirectory(prefix="keyahead-sandbox-") as folder:
            Path(folder, _PROGRAM).write_text(program, encoding="utf-8", newline="")
            settings = json.dumps({"isolated": self.isolated, "limits": asdict(self.limits)})
            report = _run_warden([_interpreter(), "-I", "-S", __file__, settings], folder, self.limits.wall_s + _GRACE_S)
        if not report:
            return Verdict.CRASH
        answer = json.loads(report)
        if "error" in answer:
            raise SandboxError(f"The sandbox could not start the program: {answer['error']}.")
        return Verdict(answer["verdict"])


def _interpreter() -> str:
    """The interpreter proper, behind a virtual environment's links."""
    return os.path.realpath(sys.executable)


def _run_warden(command: list[str], folder: str, timeout_s: float) -> bytes:
    """What the warden reports; nothing when it was killed or did not end in time."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={},
        start_new_session=True,
    ) as warden:
        try:
            return warden.communicate(timeout=timeout_s)[0]
        except subprocess.TimeoutExpired:
            return b""
        finally:
            # Its group is its session's, so this cannot hit anybody else; on the normal path the group is already gone.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(warden.pid, signal.SIGKILL)


# From here on: inside the warden's interpreter.


def _warden() -> None:
    """Starts the supervisor (the first process of its own process tree, where that is allowed) and waits for it."""
    settings = json.loads(sys.argv[1])
    limits, isolated = Limits(**settings["limits"]), bool(settings["isolated"])
    try:
        if isolated:
            _enter_namespaces()
        supervisor = os.fork()
        if not supervisor:
            _report({"verdict": _supervise(limits, isolated).value})
        os.waitpid(supervisor, 0)
    except OSError as error:
        _report({"error": str(error)})


def _report(answer: dict[str, str]) -> NoReturn:
    os.write(sys.stdout.fileno(), json.dumps(answer).encode())
    os._exit(0)


def _supervise(limits: Limits, isolated: bool) -> Verdict:
    """Runs the program as a child and sees to it that nothing it started is left."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    uid, gid = (os.getuid(), os.getgid()) if os.getuid() else (_NOBODY, _NOBODY)
    if isolated:
        root = _build_root(16 * limits.file_bytes, uid, gid)
    else:
        root = None
        os.chown(".", uid, gid)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    program = os.fork()
    if not program:
        _become_program(limits, root, uid, gid)
    status = _wait(program, limits.wall_s)
    if not isolated:  # Otherwise the kernel does it, as this is the first process of the tree.
        end_descendants()
    return _verdict(status)


def _wait(child: int, timeout_s: float) -> int | None:
    """The child's exit status as `subprocess` counts it, or None when it had to be killed."""
    poll = select.poll()
    poll.register(os.pidfd_open(child), select.POLLIN)
    in_time = poll.poll(timeout_s * 1000)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if in_time else None


def _verdict(status: int | None) -> Verdict:
    if status == _NOT_STARTED:
        raise OSError("its interpreter cannot be executed by an unprivileged user")
    if status is None or status == -signal.SIGXCPU:
        return Verdict.TIMEOUT
    if status < 0:
        return Verdict.CRASH
    return {_PASSED: Verdict.PASSED, _MEMORY: Verdict.MEMORY}.get(status, Verdict.FAILED)


def end_descendants() -> None:
    """Kills and reaps every process below this one, which must be a subreaper: what a killed process leaves behind becomes its child."""
    while True:
        for child in Path("/proc/thread-self/children").read_text(encoding="ascii").split():
            os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _become_program(limits: Limits, root: str | None, uid: int, gid: int) -> NoReturn:
    """Gives up every privilege and becomes the program's interpreter."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        os.setsid()
        if root:
            os.chroot(root)
            os.chdir("/tmp")  # noqa: S108 - in the new root, and this run's alone
        if not os.getuid():
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _limit(limits)  # After the change of user, whose processes are counted.
        os.execve(_interpreter(), ["python", "-I", "-S", "-c", _RUNNER], {})  # noqa: S606 - no shell wanted
    except BaseException:  # noqa: BLE001 - whatever it was, the child must not go on in the supervisor's code
        os._exit(_NOT_STARTED)


def _limit(limits: Limits) -> None:
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1),
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NPROC, limits.processes, limits.processes),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))


def _enter_namespaces() -> None:
    """Leaves the machine's network, mounts and process tree, the latter with the next child. OSError where that is not allowed."""
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC
    uid, gid = os.getuid(), os.getgid()
    _check(_libc().unshare(flags if uid == 0 else flags | _CLONE_NEWUSER), "unshare")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", name).write_text(text, encoding="ascii")
    _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)


def _build_root(scratch_bytes: int, uid: int, gid: int) -> str:
    """A root folder in memory with read-only views of the system's libraries and the interpreter, and the program in its only `/tmp`."""
    root = Path("root").absolute()
    root.mkdir()
    _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={scratch_bytes},mode=755")
    for shown in (Path("/usr"), Path("/lib"), Path("/lib64"), Path(sys.base_prefix)):
        place = root / shown.relative_to("/")
        if shown.is_symlink():
            place.symlink_to(shown.readlink())
        elif shown.is_dir() and not place.exists():
            place.mkdir(parents=True)
            _mount(str(shown), str(place), flags=_MS_BIND | _MS_REC)
            _make_read_only(str(place))
    scratch = root / "tmp"
    scratch.mkdir()
    shutil.copyfile(_PROGRAM, scratch / _PROGRAM)
    os.chown(scratch, uid, gid)
    return str(root)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    _check(_libc().mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()), "mount")


def _make_read_only(folder: str) -> None:
    """Also whatever is mounted below it, which a remount would leave writable."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr: set, clear, propagation, userns_fd
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _check(_libc().syscall(_MOUNT_SETATTR, _AT_FDCWD, folder.encode(), _AT_RECURSIVE, attributes, size), "mount_setattr")


if __name__ == "__main__":
    _warden()
