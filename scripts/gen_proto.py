"""Generates the Python code for proto/, or with --check says whether it is current.

protoc maps proto/ to keyahead/proto/ on its search path, so the generated modules import each other as keyahead.proto.… and nothing has
to be rewritten afterwards. The .proto files themselves import each other by their path below proto/, as buf wants.
"""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"
TARGET = Path("keyahead/proto")
MYPY = ("mypy", "mypy_grpc")
PLUGINS = ("python", "grpc_python", *MYPY)


def generate(target: Path) -> None:
    """Writes keyahead/proto/… below `target`; leaves with protoc's own message if a file is wrong."""
    files = sorted(path.relative_to(SOURCES) for path in SOURCES.rglob("*.proto"))
    include = Path(grpc_tools.__file__).parent / "_proto"
    # The mypy plugins are programs beside this interpreter, which need not be on PATH.
    tools = [f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}" for name in MYPY]
    outputs = [f"--{plugin}_out={'quiet:' if plugin in MYPY else ''}{target}" for plugin in PLUGINS]
    code = protoc.main(["protoc", f"-I{TARGET}={SOURCES}", f"-I{include}", *tools, *outputs, *(str(TARGET / path) for path in files)])
    if code:
        sys.exit(code)


def stale(fresh: Path, current: Path) -> list[str]:
    """Generated files that differ, are missing or have no source any more."""
    made, kept = ({path.relative_to(root) for path in root.rglob("*_pb2*.py*") if path.suffix != ".pyc"} for root in (fresh, current))
    changed = {path for path in made & kept if not filecmp.cmp(fresh / path, current / path, shallow=False)}
    return sorted(map(str, changed | (made ^ kept)))


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if arguments != ["--check"]:
        generate(ROOT / "src")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wrong = stale(Path(folder) / TARGET, ROOT / "src" / TARGET)
    if wrong:
        print(f"The generated code is not current ({', '.join(wrong)}): run 'make proto'.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
