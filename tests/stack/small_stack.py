"""A stack of two small programs in a process of its own, for tests that kill things: python small_stack.py NOTES KIND.

It writes into the folder NOTES: `folder` (its run folder's path), the process ids of its children as they start, `serving`, and `error`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from keyahead.engine.store import SetupError
from keyahead.stack import guard
from keyahead.stack.policy import Rules
from keyahead.stack.process import Program
from keyahead.stack.runfolder import run_folder
from keyahead.stack.supervisor import Supervisor

CHILD = """
import os, pathlib, signal, subprocess, sys, time
notes, name, kind = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def note(what, text):
    (notes / (what + ".part")).write_text(text)
    (notes / (what + ".part")).rename(notes / what)
if kind == "fails":
    sys.exit("no such luck")
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "parent":
    note("grandchild", str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid))
note(name, str(os.getpid()))
if kind != "late":
    note(name + "-ready-" + str(os.getpid()), "")
time.sleep(600)
"""


def program(notes: Path, name: str, kind: str) -> Program:
    """One that is ready when it says so in a file."""
    return Program(
        name=name,
        command=(sys.executable, "-c", CHILD, str(notes), name, kind),
        environment=dict(os.environ),
        rules=Rules(start_s=1 if kind == "late" else 30, stop_s=1, after=("first",) if name == "second" else ()),
        is_ready=lambda: (notes / name).exists() and (notes / f"{name}-ready-{(notes / name).read_text()}").exists(),
        needs_its_children=kind == "parent",
        niceness=7 if kind == "parent" else 0,
    )


def main(notes: Path, kind: str) -> int:
    """Returns the exit code."""
    try:
        with run_folder() as run:
            (notes / "folder").write_text(str(run.path))
            (run.path / "some.sock").touch()
            (guard.SHARED_MEMORY / f"{run.shm_prefix}-region").touch()
            programs = [program(notes, "first", "plain"), program(notes, "second", kind)]
            Supervisor(programs, run.path, run, print).run((notes / "serving").touch)
    except SetupError as error:
        (notes / "error").write_text(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
