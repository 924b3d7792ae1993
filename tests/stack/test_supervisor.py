"""A supervisor with real processes, which are stopped and killed in all the ways that happen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from keyahead.stack import guard
from keyahead.stack.runfolder import run_folder

SMALL_STACK = Path(__file__).with_name("small_stack.py")
PATIENCE_S = 30.0


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds soon, on however busy a machine."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def lives(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class SmallStack:
    """A stack in another process, and what it noted."""

    def __init__(self, notes: Path, kind: str) -> None:
        self._notes = notes
        environment = {**os.environ, "KEYAHEAD_CACHE": str(notes / "cache")}
        # With SIGINT ignored, as a shell starts its background jobs.
        command = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, str(SMALL_STACK), str(notes), kind]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def note(self, name: str) -> str:
        """What it noted, once it has."""
        assert eventually((self._notes / name).exists), f"no {name}"
        return (self._notes / name).read_text()

    def pid(self, name: str) -> int:
        """A child's process id."""
        return int(self.note(name))

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.note("folder"))

    def end_with(self, number: int) -> int:
        """Signal the supervisor and wait for its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def guard(self) -> int:
        """The guard's process id."""
        children = psutil.Process(self.process.pid).children()
        return next(child.pid for child in children if guard.__file__ in child.cmdline())

    def has_left_nothing(self, *pids: int) -> bool:
        """Whether processes, folder and shared memory are gone soon."""
        gone = eventually(lambda: not any(map(lives, pids)) and not self.folder.exists())
        return gone and not list(guard.SHARED_MEMORY.glob(f"{self.folder.name}*"))


StartStack = Callable[[str], SmallStack]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartStack]:
    """Starts a stack whose second child is of some kind."""
    stacks: list[SmallStack] = []

    def run(kind: str) -> SmallStack:
        stacks.append(SmallStack(tmp_path, kind))
        return stacks[-1]

    yield run
    for stack in stacks:
        stack.process.kill()
        stack.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything(start: StartStack, number: int) -> None:
    """Ctrl-C (of a background job, too), SIGTERM and a closed terminal leave no process, folder or shared memory, and are no error."""
    stack = start("plain")
    stack.note("serving")
    pids = stack.pid("first"), stack.pid("second")
    assert stack.end_with(number) == 0
    assert stack.has_left_nothing(*pids)


def test_a_child_that_ignores_sigterm_is_killed(start: StartStack) -> None:
    """A stubborn child does not outlive its limit."""
    stack = start("stubborn")
    stack.note("serving")
    pids = stack.pid("first"), stack.pid("second")
    assert stack.end_with(signal.SIGTERM) == 0
    assert stack.has_left_nothing(*pids)


def test_a_signal_in_the_middle_of_the_start_stops_everything(start: StartStack) -> None:
    """What has started by then is stopped."""
    stack = start("late")
    first = stack.pid("first")
    assert stack.end_with(signal.SIGTERM) == 0
    assert stack.has_left_nothing(first)


def test_killing_the_supervisor_leaves_nothing(start: StartStack) -> None:
    """After kill -9 the children, their children, the folder and the shared memory go, too."""
    stack = start("parent")
    stack.note("serving")
    pids = stack.pid("first"), stack.pid("second"), stack.pid("grandchild")
    stack.end_with(signal.SIGKILL)
    assert stack.has_left_nothing(*pids)


def test_what_a_killed_guard_leaves_is_removed_by_the_next_stack(start: StartStack) -> None:
    """When supervisor and guard are killed together the children still end, and the next start removes folder and shared memory."""
    stack = start("plain")
    stack.note("serving")
    folder, pids = stack.folder, (stack.pid("first"), stack.pid("second"))
    os.kill(stack.guard(), signal.SIGKILL)
    stack.end_with(signal.SIGKILL)
    assert eventually(lambda: not any(map(lives, pids)))
    assert folder.exists()
    with run_folder() as own:
        assert own.path.exists()
    assert stack.has_left_nothing()


def test_a_running_stack_is_left_alone_by_the_next(start: StartStack) -> None:
    """Starting a second stack removes nothing of the first."""
    stack = start("plain")
    stack.note("serving")
    with run_folder():
        pass
    assert (stack.folder / "some.sock").exists()


def test_a_killed_child_is_started_again(start: StartStack) -> None:
    """A child that dies is replaced while the others go on."""
    stack = start("plain")
    stack.note("serving")
    first, second = stack.pid("first"), stack.pid("second")
    os.kill(second, signal.SIGKILL)
    assert eventually(lambda: stack.pid("second") != second)
    assert stack.pid("first") == first
    assert lives(first)


def test_a_child_that_loses_its_own_child_is_replaced(start: StartStack) -> None:
    """As Triton must be when its Python stub has died."""
    stack = start("parent")
    stack.note("serving")
    parent = stack.pid("second")
    os.kill(stack.pid("grandchild"), signal.SIGKILL)
    assert eventually(lambda: stack.pid("second") != parent)
    assert eventually(lambda: not lives(parent))


def test_a_program_that_shall_step_back_does_so_with_its_children(start: StartStack) -> None:
    """By their niceness, and by their session's where Linux weighs sessions; the others are as they were."""
    stack = start("parent")
    parent, child = stack.pid("second"), stack.pid("grandchild")
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert eventually(lambda: os.getpriority(os.PRIO_PROCESS, parent) == 7)
    assert os.getpriority(os.PRIO_PROCESS, child) == 7
    assert os.getpriority(os.PRIO_PROCESS, stack.pid("first")) == mine
    session = Path(f"/proc/{child}/autogroup")
    assert not session.exists() or session.read_text().endswith("nice 7\n")


@pytest.mark.parametrize(
    ("kind", "said"),
    [("fails", "second ended before it was ready (exit code 1); it last said “no such luck”"), ("late", "second was not ready within 1 s")],
)
def test_a_failed_start_is_one_sentence_with_the_log(start: StartStack, kind: str, said: str) -> None:
    """It names the child, its last words and a log that is still there."""
    stack = start(kind)
    assert stack.process.wait(PATIENCE_S) == 2
    error = stack.note("error")
    assert error.startswith(said)
    assert Path(error.split("see ")[1].split(",")[0]).exists()
    assert stack.has_left_nothing(stack.pid("first"))
