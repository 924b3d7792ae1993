"""The command `keyahead`: finds the sub-command, loads only what that needs, and turns failures into a sentence and an exit code."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

_COMMANDS = {
    "up": ("up", "Set up what is missing, start everything, and serve until Ctrl-C."),
    "complete": ("complete", "Complete one place in a file."),
    "watch": ("watch", "Show ghost text in the terminal while a file changes."),
    "eval": ("evaluate", "Score the service on infilling tasks."),
    "loadtest": ("app", "Let simulated people type against the service, and judge whether it keeps its promise."),
    "capacity": ("capacity", "Tell what it takes to serve so many developers, and what it costs."),
    "doctor": ("doctor", "Check this machine and the set-up."),
    "engine": ("engine", "Plan, build, check or serve an engine for a GPU."),
    "cpu": ("cpu", "Convert a model for the CPU engine, or serve it with Triton alone."),
    "serve": ("serve", "Run the gRPC service alone, beside an engine that is already up."),
}
"""Sub-command, which is also its module's name: the function in that module, or the app if it has sub-commands of its own, and a summary,
so that `--help` loads no module."""

app = typer.Typer(
    help="Self-hosted code autocomplete that answers before the next key.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keyahead {version('keyahead')}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Only there for the options of `keyahead` itself."""


def _run(name: str, arguments: list[str]) -> None:
    """Loads one sub-command and runs it with the rest of the command line; leaves with its exit code."""
    module = importlib.import_module(f"keyahead.cli.{name}")
    entry = getattr(module, _COMMANDS[name][0])
    command = entry if isinstance(entry, typer.Typer) else typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if command is not entry:
        command.command(name)(entry)
    command(args=arguments, prog_name=f"keyahead {name}")


def _exit_code(error: Exception) -> int | None:
    """The exit code for a failure that explains itself, or None for a defect of ours, which keeps its traceback."""
    from keyahead.cli.output import USAGE, CommandError  # noqa: PLC0415 - loads rich, which a command that succeeds may do without
    from keyahead.engine.store import SetupError  # noqa: PLC0415 - likewise

    if isinstance(error, CommandError):
        return error.exit_code
    return USAGE if isinstance(error, SetupError) else None


def _deferred(name: str) -> Callable[[typer.Context], None]:
    """A stand-in for a sub-command, which takes any arguments and passes them on to the real one."""

    def run(context: typer.Context) -> None:
        try:
            _run(name, context.args)
        except Exception as error:
            code = _exit_code(error)
            if code is None:
                raise
            from keyahead.cli.output import report_error  # noqa: PLC0415 - as above

            report_error(str(error), code, as_json="--json" in context.args)
            raise typer.Exit(code) from None

    return run


for _name, (_, _summary) in _COMMANDS.items():
    app.command(
        _name,
        help=_summary,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    )(_deferred(_name))
