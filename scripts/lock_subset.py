"""The lines of requirements.lock that some packages need, hashes included: python lock_subset.py NAMES.txt requirements.lock.

pip-compile notes below every package who asked for it ("via"). From those notes follows the closure. Only the standard library is used,
since this runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==.*\n(?:[ ]{4}.*\n)*", re.MULTILINE)
_VIA = re.compile(r"^    #(?: via)?(?:   | )(?P<name>[A-Za-z0-9._-]+)\s*$", re.MULTILINE)


def subset(names: set[str], lock: str) -> str:
    """The entries of these packages and of all that they need. Raises ValueError for a name that the lock lacks."""
    entries = {match["name"]: match[0] for match in _ENTRY.finditer(lock)}
    if missing := names - entries.keys():
        raise ValueError(f"requirements.lock has no {', '.join(sorted(missing))}: mend the list, or run 'make lock'.")
    askers = {name: set(_VIA.findall(entry)) for name, entry in entries.items()}
    wanted = set(names)
    while more := {name for name, via in askers.items() if via & wanted} - wanted:
        wanted |= more
    return "".join(entries[name] for name in sorted(wanted))


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    names, lock = (Path(each).read_text(encoding="utf-8") for each in arguments)
    sys.stdout.write(subset({line for line in names.splitlines() if line and not line.startswith("#")}, lock))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
