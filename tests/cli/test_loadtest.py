"""`keyahead loadtest` against a scripted service, with the real generator process."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from typer.main import get_group
from typer.testing import CliRunner, Result

from keyahead.cli import loadtest as module
from keyahead.cli.main import app
from keyahead.loadtest import columns
from tests.loadtest.conftest import source
from tests.loadtest.results import PATIENT, latencies, result, whole

if TYPE_CHECKING:
    from tests.cli.conftest import ScriptedService


def run(*arguments: str) -> Result:
    """`keyahead loadtest` with these arguments."""
    return CliRunner().invoke(app, ["loadtest", *arguments])


def test_a_run_against_a_service(service: ScriptedService, tmp_path: Path) -> None:
    """Two typists for some seconds, in two processes, and a simulated service with the same keys. The run is too short to tell (and on a
    busy machine the generator late), which is exit code 3; the result has everything, and no text.
    """
    (tmp_path / "texts").mkdir()
    for number in range(6):
        (tmp_path / "texts" / f"{number}.py").write_text(source(str(number)).text)
    objectives = tmp_path / "objectives.toml"
    objectives.write_text(PATIENT)
    output, junit = tmp_path / "result.json", tmp_path / "junit.xml"
    prices = ("--price-tokens-in", "1", "--price-tokens-out", "4", "--price-server-hour", "0.5", "--typing-hours", "40")
    files = ("--output", str(output), "--junit", str(junit), "--texts", str(tmp_path / "texts"), "--objectives", str(objectives), "--json")
    done = run(
        "--address", service.address, "--typists", "2", "--workers", "2", "--duration", "4", "--baseline", "simulated:chat", *prices, *files
    )
    assert done.exit_code == 3, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(output.read_text()) == found
    own, simulated = found["systems"]
    assert own["figures"]["asked"] == own["generator"]["planned"] == simulated["generator"]["planned"] > 3
    assert own["figures"]["outcomes"] == {"answered": own["figures"]["asked"]}
    assert own["figures"]["sources"] == {"in_flight": own["figures"]["asked"]}
    assert {r.typist for r in columns.to_records(own["records"])} == {0, 1}
    assert own["percentiles_ms"]["stage.total"]["p50"] == pytest.approx(12.5, rel=0.01)
    assert (simulated["system"], simulated["simulated"]) == ("simulated chat (perfect answers)", True)
    assert simulated["figures"]["predicted_characters"] > 0
    assert found["cost"]["api_per_1000"] > 0
    assert len(ET.parse(junit).getroot()) == len(found["verdict"]["objectives"]) == 6
    sent = {request.document.split.suffix for request in service.requests}
    assert not any(line in done.stdout for text in sent for line in text.split("\n") if len(line) > 40)
    assert {request.session_id.rpartition(".")[2] for request in service.requests} == {"0", "1"}
    assert service.session_ids == [request.session_id for request in service.requests]


def test_a_run_over_sessions(service: ScriptedService, tmp_path: Path) -> None:
    """Each typist opens a file and sends keys as edits; where a stream ends, the next key opens the file again on another, and asks."""
    for number in range(6):
        (tmp_path / f"{number}.py").write_text(source(str(number)).text)
    done = run("--address", service.address, "--via", "session", "--typists", "2", "--duration", "5", "--texts", str(tmp_path), "--json")
    own = json.loads(done.stdout.splitlines()[-1])["systems"][0]
    assert own["system"] == "keyahead by session"
    assert own["figures"]["asked"] == own["generator"]["planned"] > 8
    assert own["figures"]["sources"] == {"in_flight": own["figures"]["outcomes"]["answered"]}
    assert set(own["figures"]["errors"]) <= {"stream ended"}
    kinds = [[message.WhichOneof("message") for message in stream] for stream in service.streams]
    assert len(kinds) > 2
    assert all(kind[0] == "open" and set(kind[1:]) <= {"edit", "ask", "close", "open", "move_cursor"} for kind in kinds)
    assert any(kind[:2] == ["open", "ask"] for kind in kinds)
    assert len(service.session_ids) == len(service.streams)
    assert {name.rpartition(".")[2] for name in service.session_ids} == {"0", "1"}


def test_a_service_that_fails_fails_the_verdict(service: ScriptedService) -> None:
    """Every request fails with UNAVAILABLE, and the exit code is 1."""
    service.behaves(lambda _request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "away"))
    done = run("--address", service.address, "--typists", "2", "--workers", "3", "--duration", "3", "--json")
    assert done.exit_code == 1, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])["systems"][0]["figures"]
    assert figures["errors"] == {"UNAVAILABLE": figures["asked"]}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--baseline", "nothing=1"), "There is no baseline 'nothing=1'"),
        (("--baseline", "simulated:nothing"), "There is no baseline"),
        (("--price-tokens-in", "1"), "Costs need all of"),
        (("--texts", "/", "--history", "/"), "choose one"),
        (("--objectives", "/nowhere.toml"), "cannot be read"),
        (("--history", "/"), "name a git repository"),
        (("--texts", "/nowhere"), "has no source files"),
        (("--output", "/nowhere/result.json"), "give --output a file in a folder that exists"),
        (("--junit", "/"), "give --junit a file"),
        (("--typists", "-1"), "Invalid value for '--typists'"),
        (("--duration", "0"), "Invalid value for '--duration'"),
        (("--seed", "one"), "Invalid value for '--seed'"),
        (("--address", "somewhere"), "has no host and port"),
        (("--address", "127.0.0.1:99999"), "has no host and port"),
        ((), "Nothing answers at 127.0.0.1:1 (Connection refused)"),
        (("--baseline", "llama=http://127.0.0.1:1"), "leave out --baseline llama=http://127.0.0.1:1"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    """Said before anything is started; the exit code is 2."""
    for number in range(6):
        (tmp_path / f"{number}.py").write_text(source(str(number)).text)
    texts = () if {"--texts", "--history"} & {*arguments} else ("--texts", str(tmp_path))
    done = run("--address", "127.0.0.1:1", "--duration", "3", *texts, *arguments)
    assert done.exit_code == 2
    assert sentence in " ".join(re.sub("[│╭╮╰╯─]", " ", done.stderr).split())


def test_texts_that_do_not_last_are_said_before_anything_is_started(tmp_path: Path) -> None:
    """With how long they last; the exit code is 2."""
    (tmp_path / "a.py").write_text(source().text)
    done = run("--address", "127.0.0.1:1", "--duration", "6000", "--typists", "1", "--texts", str(tmp_path))
    assert done.exit_code == 2
    assert "The texts of typist 0 last for" in done.stderr


def test_files_that_cannot_be_written_are_said_before_the_report_is_made(tmp_path: Path) -> None:
    """Each by its option; the exit code is 2."""
    first = tmp_path / "first.json"
    first.write_text(json.dumps(whole(result(latencies(600, 1)))))
    for option in ("--html", "--markdown"):
        done = run("report", str(first), option, str(tmp_path / "none" / "report"))
        assert done.exit_code == 2
        assert f"give {option} a file" in " ".join(done.stderr.split())


def test_documents_and_ci_jobs_use_options_that_exist() -> None:
    """Every option of `keyahead loadtest` in docs/ and deploy/ci is one of the command's or of its sub-commands'."""
    root = Path(__file__).parents[2]
    group = get_group(module.app)
    known = {option for command in (group, *group.commands.values()) for each in command.params for option in each.opts}
    for file in (root / "docs/loadtest.md", root / "README.md", *(root / "deploy/ci").iterdir()):
        lines = [line for line in file.read_text().splitlines() if "keyahead loadtest" in line]
        assert lines
        assert set(re.findall(r"--[a-z-]+", " ".join(lines))) <= known


def test_compare(tmp_path: Path) -> None:
    """Exit code 1 for a planted regression of 10 %, 0 for none, 2 for a file that is no result."""
    files = {name: tmp_path / f"{name}.json" for name in ("before", "after", "same", "none")}
    for name, scale in (("before", 1.0), ("same", 1.0), ("after", 1.1)):
        files[name].write_text(json.dumps(whole(result(latencies(600, 1, scale)))))
    files["none"].write_text("{}")
    assert run("compare", str(files["before"]), str(files["same"])).exit_code == 0
    done = run("compare", str(files["before"]), str(files["after"]), "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["regression"] is True
    assert run("compare", str(files["before"]), str(files["none"])).exit_code == 2


def test_report(tmp_path: Path) -> None:
    """Both files are written; what is missing or wrong is said, with exit code 2, and nothing is written."""
    first, other, old = (tmp_path / f"{name}.json" for name in ("first", "other", "old"))
    first.write_text(json.dumps(whole(result(latencies(600, 1)))))
    other.write_text(json.dumps(whole(result(latencies(600, 1), seed=1))))
    old.write_text(first.read_text().replace('"schema": 1', '"schema": 0'))
    html, markdown = tmp_path / "report.html", tmp_path / "report.md"
    assert run("report", str(first)).exit_code == 2
    for wrong in ((old,), (first, other), (first, tmp_path / "nowhere.json")):
        done = run("report", *map(str, wrong), "--html", str(html))
        assert done.exit_code == 2
        assert re.search("no result of this version's|has other keys|cannot be read", " ".join(done.stderr.split()))
    assert not html.exists()
    assert run("report", str(first), "--html", str(html), "--markdown", str(markdown)).exit_code == 0
    assert html.read_text().startswith("<!doctype html>")
    assert markdown.read_text().startswith("### ")
