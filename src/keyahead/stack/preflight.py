"""The preflight of an engine: is the container what the plan assumes, and does the engine keep the contract? The answer is a report."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import keyahead
from keyahead.engine.store import Progress, SetupError, atomic_file
from keyahead.engine.trtllm import build, job
from keyahead.engine.trtllm.facts import BRIEF_COMMAND, MOUNTS, PROBE_COMMAND, Facts
from keyahead.engine.trtllm.plan import Plan
from keyahead.engine.trtllm.preflight import Finding, compare
from keyahead.stack import docker

CONTRACT_TESTS = Path(keyahead.__file__).parents[2] / "tests" / "contract"
TESTS_TIMEOUT_S = 600
REPORT = "preflight.json"


@dataclass(frozen=True, slots=True)
class Report:
    """What the preflight found."""

    plan: Plan
    facts: Facts
    findings: tuple[Finding, ...]
    built: bool = True
    """Whether there is an engine that it could be about."""

    @property
    def passed(self) -> bool:
        """Whether the engine may serve or, if it is still to be built, may be built."""
        return all(each.ok or not each.fatal for each in self.findings)

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "passed": self.passed,
            "built": self.built,
            "plan": self.plan.to_json(),
            "here": {**dataclasses.asdict(self.facts.origin), "driver": self.facts.driver, "triton_release": self.facts.triton_release},
            "findings": [dataclasses.asdict(each) for each in self.findings],
        }

    def to_text(self) -> str:
        """For people."""
        words = {(True, True): "ok", (True, False): "ok", (False, True): "FAILED", (False, False): "note"}
        lines = [f"{words[each.ok, each.fatal]:8}{each.what}: {each.detail}" for each in self.findings]
        verdict = f"The engine {'may' if self.passed else 'must not'} {'serve' if self.built else 'be built'}."
        return "\n".join([f"Preflight of {self.plan.name}", *lines, verdict, ""])


def preflight(plan: Plan, work: Path, port: int, progress: Progress, tests: Path = CONTRACT_TESTS) -> Report:
    """Compare, serve and test; writes preflight.json and preflight.txt beside the engine. Raises SetupError if it cannot be tried."""
    if not tests.is_dir():
        raise SetupError(f"The contract tests are not in {tests}: run this from a checkout of keyahead.")
    folder = work.absolute() / plan.name
    manifest = build.read_manifest(folder)
    facts = build.inspect(plan, folder, docker.run, progress)
    build.require_origin(manifest, facts.origin, folder)
    findings = [*compare(plan, facts), _same_files(plan, manifest.get("engine"), folder, progress)]
    if all(each.ok or not each.fatal for each in findings):
        with progress.step("Starting Triton", None), docker.serving(plan, folder, port) as serving:
            findings += _contract(plan, serving.address, folder, tests)
    return _written(Report(plan, facts, tuple(findings)), folder)


def check(folder: Path, progress: Progress) -> Report:
    """The part of a preflight that needs no container, for a folder of `job.prepare`, before and after its script has run.

    Raises SetupError if the GPU, a version or the checkpoint is another. A check that passes when all is built leaves the file that Triton
    waits for; any other takes it away.
    """
    (folder / job.WHOLE).unlink(missing_ok=True)
    plan, source = job.read_plan(folder)
    facts = job.inspect(plan, source, folder, progress)
    findings = [*compare(plan, facts), _same_repository(plan, folder)]
    findings.append(Finding("contract", False, "not run here: point tests/contract at Triton's port", fatal=False))
    if built := job.is_built(folder):
        job.finish(plan, source, folder, progress)
        findings.append(_same_files(plan, build.read_manifest(folder)["engine"], folder, progress))
    report = _written(Report(plan, facts, tuple(findings), built), folder)
    if report.passed and built:
        (folder / job.WHOLE).touch()
    return report


def _written(report: Report, folder: Path) -> Report:
    for name, text in {REPORT: json.dumps(report.to_json(), indent=2) + "\n", "preflight.txt": report.to_text()}.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text)
    return report


def require_servable(plan: Plan, folder: Path, progress: Progress) -> None:
    """Raise a SetupError unless the engine in `folder` has passed its preflight, and GPU and container are still those it was built on."""
    require_passed(plan, folder)
    facts = build.inspect(plan, folder, docker.run, progress, BRIEF_COMMAND)
    build.require_origin(build.read_manifest(folder), facts.origin, folder)


def require_passed(plan: Plan, folder: Path) -> None:
    """Raise a SetupError unless the engine in `folder` has passed its preflight, served as the plan says."""
    try:
        report = json.loads((folder / REPORT).read_text())
        passed = report["passed"] and all(report["plan"][key] == plan.to_json()[key] for key in ("name", "serving", "llm"))
    except (OSError, ValueError, KeyError):
        passed = False
    if not passed:
        raise SetupError(f"The engine in {folder} has passed no preflight: run 'keyahead engine preflight' with the same options first.")


def commands(plan: Plan, folder: Path, port: int) -> list[list[str]]:
    """Exactly what `preflight` runs on the host, but for the container's name, which ends in its process id."""
    return [
        plan.image.run(PROBE_COMMAND, MOUNTS),
        docker.serving_command(plan, folder, port, docker.CONTAINER),
        contract_command(plan, f"127.0.0.1:{port}", folder),
    ]


def contract_command(plan: Plan, address: str, folder: Path, tests: Path = CONTRACT_TESTS) -> list[str]:
    """How the contract tests are run against an endpoint."""
    model = plan.proposal.network.name
    options = [f"--endpoint={address}", f"--endpoint-model={model}", f"--junitxml={folder / 'contract.xml'}", "-p", "no:cacheprovider"]
    if not plan.service_drafts:
        options += ["-m", "not drafts"]
    return [sys.executable, "-m", "pytest", str(tests), *options]


def _same_files(plan: Plan, recorded: object, folder: Path, progress: Progress) -> Finding:
    right = recorded == build.digests(folder / plan.served, progress)
    return Finding(
        plan.served, right, "its files are those of the manifest" if right else "its files are not those of the manifest: build it anew"
    )


def _same_repository(plan: Plan, folder: Path) -> Finding:
    wrong = job.repository_differences(plan, folder)
    detail = f"not the plan's: {'; '.join(wrong)}: prepare it anew" if wrong else "its files are those of the plan"
    return Finding("repository", not wrong, detail)


def _contract(plan: Plan, address: str, folder: Path, tests: Path) -> list[Finding]:
    (folder / "contract.xml").unlink(missing_ok=True)  # that of an earlier preflight would pass for this one's
    with (folder / "contract.log").open("wb") as log, suppress(subprocess.TimeoutExpired):
        command = contract_command(plan, address, folder, tests)
        # From the checkout's root, whose pyproject.toml configures pytest.
        cwd = tests.parent.parent
        subprocess.run(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, timeout=TESTS_TIMEOUT_S, check=False)
    try:
        cases = list(ET.parse(folder / "contract.xml").iter("testcase"))  # noqa: S314  # written by the pytest that we started
    except (OSError, ET.ParseError):
        return [Finding("contract", False, f"the tests did not run to their end: {folder / 'contract.log'} says why")]
    findings = [_case(case) for case in cases]
    return findings or [Finding("contract", False, f"there were no tests in {tests}")]


def _case(case: ET.Element) -> Finding:
    problem = next((each for each in case if each.tag in {"failure", "error", "skipped"}), None)
    return Finding(f"contract: {case.get('name')}", problem is None, "passed" if problem is None else f"{problem.tag}: see contract.log")
