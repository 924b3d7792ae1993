"""The preflight as a whole, with a docker that keeps a record: compare, start, test, report, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keyahead.engine.store import SetupError, SilentProgress
from keyahead.engine.trtllm import build, gpus
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.precision import Precision
from keyahead.stack import docker, preflight
from tests.e2e.conftest import free_ports
from tests.engine.trtllm.samples import checkpoint, facts

PLAN = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.BF16)
FAKE = Path(__file__).with_name("fake_docker.py")
CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--endpoint")
    parser.addoption("--endpoint-model")
"""
PASSES = """
def test_asks(request):
    host, _, port = request.config.getoption("--endpoint").partition(":")
    assert (host, request.config.getoption("--endpoint-model")) == ("127.0.0.1", "qwen2.5-coder-1.5b")
"""


def install(folder: Path, environment: pytest.MonkeyPatch) -> Path:
    """Put the fake on PATH; returns the file of its record."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "docker"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    script.chmod(0o755)
    (folder / "facts").write_text(json.dumps(facts(gpus.get("l4"), "NVIDIA L4")))
    (folder / "log").touch()
    for name, value in {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "FAKE_LOG": folder / "log",
        "FAKE_FACTS": folder / "facts",
    }.items():
        environment.setenv(name, str(value))
    return folder / "log"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a fake docker and a built engine."""
    monkeypatch.setattr(build, "require_free_space", lambda *_: None)
    record = install(tmp_path, monkeypatch)
    build.build(PLAN, checkpoint(tmp_path / "hf"), tmp_path / "work", docker.run, SilentProgress())
    record.write_text("")
    return record


def checked(tmp_path: Path, tests: str, conftest: str = CONFTEST) -> preflight.Report:
    """A preflight with these tests as the contract's."""
    folder = tmp_path / "repo" / "tests" / "contract"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_contract.py").write_text(tests)
    return preflight.preflight(PLAN, tmp_path / "work", free_ports(1)[0], SilentProgress(), folder)


def programs(log: Path) -> list[str]:
    """What the fake was asked, in short."""
    lines = map(json.loads, log.read_text().splitlines())
    return [words[1] if words[1] != "run" else words[words.index(PLAN.image.reference) + 1] for words in lines]


def test_a_good_engine_may_serve(log: Path, tmp_path: Path) -> None:
    """The container is looked at, Triton is started and stopped, and the report stands beside the engine."""
    report = checked(tmp_path, PASSES)
    assert report.passed, report.to_text()
    assert programs(log) == ["python3", "tritonserver", "stop"]
    folder = tmp_path / "work" / PLAN.name
    written = json.loads((folder / "preflight.json").read_text())
    assert written["passed"]
    assert {"what": "contract: test_asks", "ok": True, "detail": "passed", "fatal": True} in written["findings"]
    assert "The engine may serve." in (folder / "preflight.txt").read_text()
    preflight.require_servable(PLAN, folder, SilentProgress())


def test_an_engine_that_moved_to_another_gpu_is_not_served(log: Path, tmp_path: Path) -> None:
    """Its preflight passed elsewhere; the container is asked again, in brief."""
    checked(tmp_path, PASSES)
    log.write_text("")
    (tmp_path / "facts").write_text(json.dumps(facts(gpus.get("a10"), "NVIDIA A10")))
    with pytest.raises(SetupError, match="the GPU was NVIDIA L4 and is NVIDIA A10"):
        preflight.require_servable(PLAN, tmp_path / "work" / PLAN.name, SilentProgress())
    assert json.loads(log.read_text())[-2:] == ["/probe.py", "--brief"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_however_serving_ends_the_container_is_stopped(log: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, an orchestrator's signal and a closed terminal: none leaves a container that keeps the GPU."""
    checked(tmp_path, PASSES)
    log.write_text("")
    keyahead = ["env", "--default-signal=HUP,INT,TERM", sys.executable, "-c", "from keyahead.cli.main import app; app()"]
    options = ["--gpu", "l4", "--precision", "bf16", "--work", str(tmp_path / "work"), "--port", str(free_ports(1)[0]), "--json"]
    with subprocess.Popen([*keyahead, "engine", "serve", *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert json.loads(process.stdout.readline())["max_drafts"] == 24
            process.send_signal(number)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert programs(log) == ["python3", "tritonserver", "stop"]


@pytest.mark.parametrize("tests", ["def test_x(): assert False", "import pytest\ndef test_x(): pytest.skip('no')", "", "syntax error"])
def test_a_failed_skipped_or_missing_contract_test_is_fatal(log: Path, tmp_path: Path, tests: str) -> None:
    """What was not shown does not count as shown; and such an engine is not served."""
    report = checked(tmp_path, tests)
    assert not report.passed
    assert any(each.what.startswith("contract") and not each.ok for each in report.findings)
    with pytest.raises(SetupError, match="passed no preflight"):
        preflight.require_passed(PLAN, tmp_path / "work" / PLAN.name)


def test_an_earlier_result_does_not_count(log: Path, tmp_path: Path) -> None:
    """Tests that cannot be started leave no result, and that of the last time is not taken for theirs."""
    assert checked(tmp_path, PASSES).passed
    assert not checked(tmp_path, PASSES, conftest="").passed


def test_tests_that_do_not_end_are_no_pass(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that hangs is a finding in the report, not a traceback."""
    monkeypatch.setattr(preflight, "TESTS_TIMEOUT_S", 0.1)
    report = checked(tmp_path, PASSES)
    assert [each.detail for each in report.findings if each.what == "contract" and "did not run to their end" in each.detail]


def test_other_parameters_need_another_preflight(log: Path, tmp_path: Path) -> None:
    """They are no part of the folder's name, so a pass with other ones lies there."""
    checked(tmp_path, PASSES)
    other = Plan.make("qwen2.5-coder-1.5b", "l4", Precision.BF16, serving={"cuda_graph_mode": "false"})
    assert other.name == PLAN.name
    with pytest.raises(SetupError, match="passed no preflight"):
        preflight.require_passed(other, tmp_path / "work" / PLAN.name)


def test_a_wrong_container_is_not_even_started(log: Path, tmp_path: Path) -> None:
    """A difference to the plan ends the preflight before Triton."""
    (tmp_path / "facts").write_text(json.dumps(facts(gpus.get("l4"), "NVIDIA L4", triton_release="26.04")))
    assert not checked(tmp_path, PASSES).passed
    assert programs(log) == ["python3"]


def test_a_changed_engine_is_found_out(log: Path, tmp_path: Path) -> None:
    """Its files are held to the manifest."""
    (tmp_path / "work" / PLAN.name / "engine" / "rank0.engine").write_text("other")
    report = checked(tmp_path, PASSES)
    assert [each.what for each in report.findings if not each.ok] == ["engine"]


def test_a_triton_that_ends_is_reported(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with the place of its log, and not after the time it may take to load."""
    monkeypatch.setenv("FAKE_FAIL", "tritonserver")
    with pytest.raises(SetupError, match=r"Triton ended with 3 .*triton\.log"):
        checked(tmp_path, PASSES)


def test_no_docker_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cure."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="install Docker"):
        docker.run(["docker", "version"], tmp_path / "log")
