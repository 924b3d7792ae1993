"""Whether the load test's verdicts can be believed: runs that are spoilt on purpose must be found out, and equal ones must not.

Each case has a stack of its own, since a second run of the same keys would find them in the cache, and the same keys. Between load test and
service stands a proxy, which hands on every call and can hold back its answer. Two cases change nothing; one adds 60 ms to every answer,
one a tenth of the time that it took, and in one the generator is stopped again and again, as on a machine that is too small.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from common import report
from rich.table import Table
from running import KEYAHEAD, running_stack

from keyahead.proto.keyahead.v1 import autocomplete_pb2 as pb
from keyahead.proto.keyahead.v1 import autocomplete_pb2_grpc as pb_grpc

HELD_S, FREE_S = 0.3, 0.1
"""How long a generator that is held up is stopped, and then not."""
VERDICTS = {"plain": ("pass", "inconclusive"), "again": ("pass", "inconclusive"), "60 ms": ("fail",), "held up": ("invalid",)}
"""What each may be: a run that is not spoilt may be too short to tell."""

Row = tuple[str, str, str, bool]
"""What was looked at, what it should be, what was found, and whether that is right."""


@dataclass(frozen=True, slots=True)
class Case:
    """How a run is spoilt."""

    add_s: float = 0.0
    add_share: float = 0.0
    """Of the time that an answer took."""
    hold_up: bool = False


USAGE = 2
"""The load test's exit code for a run that could not begin."""
CASES = {
    "plain": Case(),
    "again": Case(),
    "60 ms": Case(add_s=0.06),
    "tenth": Case(add_share=0.1),
    "held up": Case(hold_up=True),
}


class Proxy(pb_grpc.AutocompleteServicer):
    """Hands calls on and holds their answers back."""

    def __init__(self, address: str, case: Case) -> None:
        self._stub = pb_grpc.AutocompleteStub(grpc.insecure_channel(address))
        self._case = case

    def Complete(self, request: pb.CompleteRequest, context: grpc.ServicerContext) -> pb.CompleteResponse:  # noqa: N802  # the method of the API
        """One call."""
        begun = time.monotonic()
        try:
            response: pb.CompleteResponse = self._stub.Complete(request, timeout=context.time_remaining())
        except grpc.RpcError as error:
            context.abort(error.code(), "")
        time.sleep(self._case.add_s + self._case.add_share * (time.monotonic() - begun))
        return response


@contextmanager
def proxied(address: str, case: Case) -> Iterator[str]:
    """Where the service is reached through a proxy."""
    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_AutocompleteServicer_to_server(Proxy(address, case), server)  # type: ignore[abstract]  # no sessions here
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def hold_up(process: subprocess.Popen[bytes]) -> None:
    """Stops the generator most of the time, for as long as the load test runs."""
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            children = psutil.Process(process.pid).children()
            for generator in [child.pid for child in children if "keyahead.loadtest.generator" in child.cmdline()]:
                os.kill(generator, signal.SIGSTOP)
                time.sleep(HELD_S)
                os.kill(generator, signal.SIGCONT)
        time.sleep(FREE_S)


def run(case: Case, file: Path, load: str) -> None:
    """One load test."""
    with running_stack() as stack, proxied(stack.service.address, case) as address:
        command = [KEYAHEAD, "loadtest", "--address", address, "--output", str(file), *load.split()]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        if case.hold_up:
            hold_up(process)
        if process.wait() == USAGE:
            raise SystemExit("the load test did not begin: see --load")


def main() -> None:
    """Run the cases and judge the judgements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--load", default="--typists 2 --duration 60", help="options for each load test")
    parser.add_argument("--folder", type=Path, required=True, help="for the results; those of other cases are used if they are there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    files = {name: options.folder / f"{name.replace(' ', '-')}.json" for name in CASES}
    for name in options.cases:
        run(CASES[name], files[name], options.load)
    rows = [*statuses(files), *comparisons(files, options.folder)]
    table = Table("what", "should be", "was", "right", title=Path(__file__).stem, title_justify="left")
    for what, wanted, found, right in rows:
        table.add_row(what, wanted, found, "yes" if right else "no")
    report(table, {"rows": rows}, as_json=options.json)


def statuses(files: Mapping[str, Path]) -> Iterator[Row]:
    """The verdicts of the runs that are there."""
    for name, wanted in VERDICTS.items():
        if files[name].exists():
            result = json.loads(files[name].read_text())
            status, figures = result["verdict"]["status"], result["systems"][0]["figures"]
            found = f"{status}; {figures['slow']} of {figures['eligible']} slow"
            yield f"verdict on {name}", " or ".join(wanted), found, status in wanted


def comparisons(files: Mapping[str, Path], folder: Path) -> Iterator[Row]:
    """What `compare` says of the undisturbed run and each of the others."""
    if files["plain"].exists() and files["again"].exists():
        planted = folder / "planted.json"
        planted.write_text(json.dumps(slower(json.loads(files["again"].read_text()), 1.1)))
        yield _comparison("an equal run", files["plain"], files["again"], worse=False)
        yield _comparison("an equal run, latencies multiplied by 1.1", files["plain"], planted, worse=True)
    if files["plain"].exists() and files["tenth"].exists():
        yield _comparison("a run of a service a tenth slower", files["plain"], files["tenth"], worse=True)


def slower(result: dict[str, Any], factor: float) -> dict[str, Any]:
    """A result in which every request took so much longer."""
    records = result["systems"][0]["records"]
    records["done_s"] = [at_s + factor * (done_s - at_s) for at_s, done_s in zip(records["at_s"], records["done_s"], strict=True)]
    return result


def _comparison(what: str, before: Path, after: Path, *, worse: bool) -> Row:
    found = regressions(before, after)
    named = ", ".join(f"{name} x {ratio:.2f}" for name, ratio in found.items()) or "nothing worse"
    return f"plain compared with {what}", "worse" if worse else "nothing worse", named, bool(found) == worse


def regressions(before: Path, after: Path) -> dict[str, float]:
    """What `compare` calls worse, with its ratios."""
    command = [KEYAHEAD, "loadtest", "compare", str(before), str(after), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, text=True, timeout=60)
    changes = json.loads(done.stdout.splitlines()[-1])["changes"]
    return {change["name"]: change["ratio"] for change in changes if change["regression"]}


if __name__ == "__main__":
    main()
