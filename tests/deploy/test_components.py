"""deploy/kubernetes/components, each in an overlay as an operator makes one: valid, within our policies, and with the effect it names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from keyahead.cli.main import app
from keyahead.service.config import ServiceConfig
from tests.deploy.manifests import DEPLOY, one, pod, render, validate
from tests.deploy.policies import Object, configuration, containers, pods, violations

COMPONENTS = [
    ("cpu", ["adapters-cpu", "contract"]),
    ("l4", ["adapters-gpu", "contract"]),
    ("l4", ["llm-api"]),
    ("h100", ["llm-api", "contract"]),
]
Own = Callable[[str, list[str]], list[Object]]


@pytest.fixture
def own(kubectl: Path, tmp_path: Path) -> Own:
    """Renders an overlay on one of ours, with components."""

    def make(overlay: str, components: list[str]) -> list[Object]:
        shutil.copytree(DEPLOY, tmp_path / "deploy")
        (tmp_path / "own").mkdir()
        kustomization = {
            "namespace": "keyahead",
            "resources": [f"../deploy/kubernetes/overlays/{overlay}"],
            "components": [f"../deploy/kubernetes/components/{each}" for each in components],
        }
        (tmp_path / "own" / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return render(kubectl, tmp_path / "own")

    return make


def plan(objects: list[Object]) -> Any:
    """What the Job that makes the engine would plan."""
    prepare = one(objects, "Job", "keyahead-model")["spec"]["template"]["spec"]["initContainers"][0]
    model = configuration(objects)["KEYAHEAD_MODEL_NAME"]
    arguments = [each.replace("$(KEYAHEAD_MODEL_NAME)", model) for each in prepare["args"] if "RELEASE" not in each]
    run = CliRunner().invoke(app, ["engine", "plan", "--json", *arguments[2:]])
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def test_every_component_is_tried_below() -> None:
    """None is forgotten."""
    folders = {each.name for each in (DEPLOY / "kubernetes" / "components").iterdir()}
    assert folders == {"gpu", *(name for _, components in COMPONENTS for name in components)}  # gpu is in our own overlays.


@pytest.mark.parametrize(("overlay", "components"), COMPONENTS)
def test_a_component_is_valid_and_breaks_no_policy(own: Own, overlay: str, components: list[str]) -> None:
    """Whatever it is combined with; all that it adds is in the namespace."""
    objects = own(overlay, components)
    validate(objects)
    assert violations(objects) == []
    assert {each["metadata"]["namespace"] for each in objects if each["kind"] != "Namespace"} == {"keyahead"}


def test_the_llm_api_makes_its_own_drafts(own: Own) -> None:
    """The Job asks for what can be planned, and the service is told to send none."""
    objects = own("l4", ["llm-api"])
    assert configuration(objects)["KEYAHEAD_MAX_DRAFTS"] == "0"
    assert plan(objects)["service_max_drafts"] == 0


def test_the_cpu_engine_takes_the_adapters_that_the_service_reads(own: Own, tmp_path: Path) -> None:
    """Its command knows the option, and the service finds the file on a volume that it has."""
    objects = own("cpu", ["adapters-cpu"])
    triton = pod(objects, "keyahead-triton")["containers"][0]["args"]
    run = CliRunner().invoke(app, ["cpu", *(each for each in triton if each.startswith("--max-lora-rank")), "serve"])
    assert "no folder for the converted model" in run.output  # Not: no such option.
    path = Path(configuration(objects)["KEYAHEAD_ADAPTERS_FILE"])
    service = next(each for name, each, _ in containers(objects) if name == "Deployment keyahead service")
    assert any(path.is_relative_to(mount["mountPath"]) for mount in service["volumeMounts"])
    (tmp_path / "tenants").touch()
    settings = {"KEYAHEAD_ADAPTERS_FILE": str(tmp_path / "tenants"), "KEYAHEAD_MODEL_FOLDER": str(tmp_path)}
    assert ServiceConfig.from_environment(settings).adapters_file == tmp_path / "tenants"


def test_a_tensorrt_engine_is_built_for_adapters(own: Own) -> None:
    """By the Job's own plan."""
    command = " ".join(plan(own("l4", ["adapters-gpu"]))["build_command"])
    assert re.search(r"--lora_plugin \S+", command)
    assert "--max_lora_rank 16" in command


def test_the_contract_tests_run_when_told_to_and_reach_triton_only(own: Own) -> None:
    """A suspended CronJob, whose pods may leave to Triton and DNS, and whom Triton lets in."""
    objects = own("cpu", ["contract"])
    job = one(objects, "CronJob", "keyahead-contract")["spec"]
    assert job["suspend"] is True
    assert "CronJob keyahead-contract" in dict(pods(objects))
    labels = {"matchLabels": job["jobTemplate"]["spec"]["template"]["metadata"]["labels"]}
    (out,) = (each["spec"] for each in objects if each["kind"] == "NetworkPolicy" and each["spec"]["podSelector"] == labels)
    assert [port["port"] for rule in out["egress"] for port in rule["ports"]] == [8801, 53, 53]
    entrance = one(objects, "NetworkPolicy", "keyahead-triton-contract")["spec"]
    assert entrance["podSelector"] == one(objects, "NetworkPolicy", "keyahead-triton")["spec"]["podSelector"]
    assert entrance["ingress"][0]["from"] == [{"podSelector": labels}]
