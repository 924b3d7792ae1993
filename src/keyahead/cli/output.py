"""What every command prints and how it fails: text for people, one JSON object for programs, one sentence and an exit code for errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

OK, FAILED, USAGE = 0, 1, 2
"""Exit codes: done; could not be done; asked for wrongly, or the set-up is at fault."""

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of standard output; all else goes to standard error.")
]


_FILE_WIDTH = 160
"""Columns where there is no terminal that could tell: a line of figures stays one line in a log."""


class CommandError(Exception):
    """A command cannot do what was asked; the text is one sentence with the cure."""

    exit_code = FAILED


class UsageError(CommandError):
    """The command was asked for something that cannot be."""

    exit_code = USAGE


class Output:
    """Where a command's results go."""

    def __init__(self, as_json: bool) -> None:
        """With `as_json`, standard output is kept for JSON and people read standard error."""
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, markup=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = _FILE_WIDTH

    def emit(self, answer: Mapping[str, Any]) -> None:
        """Prints one JSON object on one line, if JSON was asked for."""
        if self.as_json:
            print(json.dumps(answer), flush=True)


def report_error(sentence: str, exit_code: int, as_json: bool) -> None:
    """Tells of a failure: the sentence on standard error, and for programs `{"error": …, "exit_code": …}`."""
    Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(f"keyahead: {sentence}", style="red")
    Output(as_json).emit({"error": sentence, "exit_code": exit_code})
