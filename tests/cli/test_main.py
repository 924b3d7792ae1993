"""The command as a whole: help, errors, exit codes, and what loads when."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest
from typer.testing import CliRunner

from keyahead import cli
from keyahead.cli import main
from keyahead.cli.output import CommandError, JsonOption, UsageError
from keyahead.engine.store import SetupError

runner = CliRunner()


def install(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Puts a command in `doctor`'s place that fails like this."""

    def doctor(as_json: JsonOption = False) -> None:
        """Say nothing."""
        if error:
            raise error

    module = types.ModuleType("keyahead.cli.doctor")
    module.doctor = doctor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyahead.cli.doctor", module)
    monkeypatch.setattr(cli, "doctor", module, raising=False)


def test_help_names_every_command_and_loads_none() -> None:
    """`--help` works in a process of its own without importing gRPC or any command."""
    script = """
import sys
from keyahead.cli.main import app
try:
    app(["--help"])
except SystemExit as end:
    assert end.code == 0
loaded = [name for name in sys.modules if name in ("grpc", "openvino") or name.startswith("keyahead.cli.")]
assert loaded == ["keyahead.cli.main"], loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in ("up", "complete", "watch", "eval", "doctor", "serve"):
        assert f" {name} " in done.stdout


def test_version() -> None:
    """`--version` prints name and version."""
    result = runner.invoke(main.app, ["--version"])
    assert (result.exit_code, result.stdout.split()[0]) == (0, "keyahead")


@pytest.mark.parametrize("name", ["complete", "watch", "eval"])
def test_every_command_has_help_and_json(name: str) -> None:
    """The help of a command names its own options, `--json` among them."""
    result = runner.invoke(main.app, [name, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "--address" in result.stdout


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    """Exit code 2 and nothing on standard output."""
    for arguments in (["nonsense"], ["complete", "--nonsense"], ["complete"], ["eval", "--tasks", "x", "--limit", "0"]):
        result = runner.invoke(main.app, arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (CommandError("No luck: try again."), 1), (UsageError("No luck: try again."), 2), (SetupError("No luck: try again."), 2)],
)
def test_failures_are_a_sentence_and_an_exit_code(monkeypatch: pytest.MonkeyPatch, error: Exception | None, code: int) -> None:
    """A failure that explains itself is one sentence on standard error, no traceback."""
    install(monkeypatch, error)
    result = runner.invoke(main.app, ["doctor"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == ("keyahead: No luck: try again.\n" if error else "")


def test_failures_are_an_object_with_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--json` the failure is also the one object on standard output."""
    install(monkeypatch, SetupError("No luck: try again."))
    result = runner.invoke(main.app, ["doctor", "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {"error": "No luck: try again.", "exit_code": 2}


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is nobody's explanation keeps its traceback."""
    install(monkeypatch, ZeroDivisionError())
    assert isinstance(runner.invoke(main.app, ["doctor"]).exception, ZeroDivisionError)
