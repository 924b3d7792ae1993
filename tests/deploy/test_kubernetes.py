"""deploy/kubernetes, rendered by Kustomize: valid by Kubernetes' own schemas, within our policies, and every planted mistake is found."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from keyahead.cli.main import app
from keyahead.engine.trtllm import job
from keyahead.service.config import ServiceConfig
from tests.deploy.manifests import DEPLOY, KUBERNETES, one, pod, render, validate
from tests.deploy.policies import Object, configuration, containers, violations
from tests.engine.trtllm.samples import checkpoint

OVERLAYS = ("cpu", "l4", "h100")
LIMITS = {"l4": "qwen2.5-coder-1.5b", "h100": "qwen2.5-coder-7b"}


@pytest.fixture(scope="session")
def rendered(kubectl: Path) -> dict[str, list[Object]]:
    """The objects of every overlay."""
    return {overlay: render(kubectl, DEPLOY / "kubernetes" / "overlays" / overlay) for overlay in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    """Each in turn."""
    return str(request.param)


@pytest.fixture
def objects(rendered: dict[str, list[Object]], overlay: str) -> list[Object]:
    """A copy to spoil."""
    return copy.deepcopy(rendered[overlay])


def test_kubernetes_accepts_every_object(objects: list[Object]) -> None:
    """In any overlay."""
    validate(objects)


def test_a_field_that_does_not_exist_is_refused(objects: list[Object]) -> None:
    """So that the test above can fail."""
    pod(objects)["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one(objects, "Deployment", "keyahead"), KUBERNETES, strict=True)


def test_no_policy_is_broken(objects: list[Object]) -> None:
    """None at all, in any overlay."""
    assert violations(objects) == []


MISTAKES: dict[str, tuple[Callable[[list[Object]], object], str]] = {
    "no limits": (lambda o: pod(o)["containers"][0]["resources"].pop("limits"), "has no limits"),
    "root": (lambda o: pod(o)["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "writable": (lambda o: pod(o)["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False), "can write to its root"),
    "writable Job": (
        lambda o: one(o, "Job", "keyahead-model")["spec"]["template"]["spec"]["containers"][0].pop("securityContext"),
        "can write to its root",
    ),
    "privilege": (lambda o: pod(o, "keyahead-triton")["containers"][0]["securityContext"].update(privileged=True), "gain privileges"),
    "capability": (lambda o: pod(o)["containers"][0]["securityContext"]["capabilities"].update(add=["NET_RAW"]), "keeps capabilities"),
    "seccomp": (lambda o: pod(o)["securityContext"].pop("seccompProfile"), "no seccomp"),
    "host": (lambda o: pod(o).update(hostNetwork=True), "node's namespaces"),
    "host path": (lambda o: pod(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "from elsewhere"),
    "no probe": (lambda o: pod(o, "keyahead-triton")["containers"][0].pop("startupProbe"), "no startupProbe"),
    "ready too soon": (lambda o: pod(o)["containers"][0]["readinessProbe"]["grpc"].update(service=""), "wrong service"),
    "restarted while cold": (
        lambda o: pod(o)["containers"][0]["livenessProbe"]["grpc"].update(service="keyahead.v1.Autocomplete"),
        "wrong service",
    ),
    "killed": (lambda o: pod(o).update(terminationGracePeriodSeconds=8), "killed while it drains"),
    "refused": (lambda o: pod(o)["containers"][0].pop("lifecycle"), "before its clients know"),
    "egress": (
        lambda o: one(o, "NetworkPolicy", "keyahead-redis")["spec"]["egress"][0]["to"].append({"ipBlock": {"cidr": "0.0.0.0/0"}}),
        "code may leave",
    ),
    "egress to all": (lambda o: one(o, "NetworkPolicy", "keyahead-dns")["spec"]["egress"][0].pop("to"), "every address"),
    "no default": (lambda o: o.remove(one(o, "NetworkPolicy", "keyahead-nothing")), "denied by default"),
    "ingress": (
        lambda o: one(o, "NetworkPolicy", "keyahead-triton")["spec"]["ingress"][0].update({"from": [{"namespaceSelector": {}}]}),
        "anybody may call",
    ),
    "setting": (lambda o: one(o, "ConfigMap", "keyahead")["data"].update(KEYAHEAD_ENGINE_PLACE="4"), "no setting"),
    "secret": (
        lambda o: pod(o)["containers"][0]["env"].append({"name": "KEYAHEAD_CACHE_KEY", "value": "00" * 32}),
        "in clear",
    ),
    "password": (lambda o: one(o, "ConfigMap", "keyahead")["data"].update(X="rediss://u:p@host"), "password"),
    "metric": (
        lambda o: one(o, "ScaledObject", "keyahead-triton")["spec"]["triggers"][0]["metadata"].update(query="sum(keyahead_queue_seconds)"),
        "does not exist",
    ),
    "stage": (
        lambda o: one(o, "ScaledObject", "keyahead-triton")["spec"]["triggers"][0]["metadata"].update(
            query='sum(keyahead_stage_seconds_sum{stage="wait"})'
        ),
        "the stage wait",
    ),
    "no variable": (lambda o: pod(o)["containers"][0].pop("envFrom"), "refers to RELEASE"),
    "not watched": (lambda o: one(o, "Service", "keyahead")["metadata"].pop("labels"), "not watched"),
    "no such port": (lambda o: one(o, "ServiceMonitor", "keyahead-triton")["spec"]["endpoints"][0].update(port="http"), "not watched"),
    "alone": (lambda o: one(o, "ScaledObject", "keyahead")["spec"].update(minReplicaCount=1), "may be alone"),
    "budget": (lambda o: o.remove(one(o, "PodDisruptionBudget", "keyahead-triton")), "budget of disruptions"),
    "one node": (lambda o: pod(o).pop("topologySpreadConstraints"), "on one node"),
    "latest": (lambda o: pod(o)["containers"][0].update(image="registry.example.com/keyahead/service:latest"), "without a version"),
    "no security": (lambda o: one(o, "Namespace", "keyahead")["metadata"].pop("labels"), "restricted"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(rendered: dict[str, list[Object]], mistake: str) -> None:
    """Each by the sentence that names it."""
    plant, sentence = MISTAKES[mistake]
    objects = copy.deepcopy(rendered["cpu"])
    plant(objects)
    assert any(sentence in each for each in violations(objects)), violations(objects)


def test_threads_are_as_many_as_cores(rendered: dict[str, list[Object]]) -> None:
    """The CPU engine would count the node's."""
    objects = copy.deepcopy(rendered["cpu"])
    pod(objects, "keyahead-triton")["containers"][0]["resources"]["limits"]["cpu"] = "4"
    assert any("number of threads" in each for each in violations(objects))


def test_the_settings_start_a_service(objects: list[Object], tmp_path: Path) -> None:
    """All that the container would see, with its paths moved here, makes a ServiceConfig."""
    (tmp_path / "tokens").write_text("tenant:" + "0" * 64)
    settings = {name: value for name, value in configuration(objects).items() if name.startswith("KEYAHEAD_")}
    settings |= {
        "KEYAHEAD_TOKENS_FILE": str(tmp_path / "tokens"),
        "KEYAHEAD_MODEL_FOLDER": str(tmp_path),
        "KEYAHEAD_REDIS_URL": "redis://h",
    }
    config = ServiceConfig.from_environment(settings)
    service = next(container for name, container, _ in containers(objects) if name == "Deployment keyahead service")
    ports = {each["name"]: each["containerPort"] for each in service["ports"]}
    assert ports == {"grpc": config.grpc_port, "metrics": config.metrics_port}
    triton = one(objects, "Service", "keyahead-triton")
    assert config.triton_address == f"keyahead-triton:{triton['spec']['ports'][0]['port']}"
    assert triton["spec"]["clusterIP"] == "None"  # The name has an address for each pod, or a service would know one of them.


@pytest.mark.parametrize("gpu", LIMITS)
def test_the_jobs_arguments_make_an_engine(rendered: dict[str, list[Object]], gpu: str, tmp_path: Path) -> None:
    """`keyahead engine prepare` takes them, its plan passes every rule, and its batch is as large as the service's places."""
    settings = configuration(rendered[gpu])
    prepare = one(rendered[gpu], "Job", "keyahead-model")["spec"]["template"]["spec"]["initContainers"][0]
    given = {"$(KEYAHEAD_MODEL_NAME)": settings["KEYAHEAD_MODEL_NAME"], "$(RELEASE)": str(tmp_path / "release")}
    arguments = [re.sub(r"\$\(\w+\)", lambda match: given[match[0]], each) for each in prepare["args"]]
    assert settings["KEYAHEAD_MODEL_NAME"] == LIMITS[gpu]
    plan = CliRunner().invoke(app, ["engine", "plan", "--json", *arguments[2:-2]])
    assert plan.exit_code == 0, plan.output
    assert f"--max_batch_size {settings['KEYAHEAD_ENGINE_PLACES']}" in " ".join(json.loads(plan.stdout)["build_command"])


def test_the_job_leaves_what_triton_starts_with(rendered: dict[str, list[Object]], tmp_path: Path) -> None:
    """On the small checkpoint of 1.5B: a tokenizer where the service looks, and a repository whose engine is in the same release."""
    source, release = checkpoint(tmp_path / "checkpoint"), tmp_path / "release"
    options = ["--model=qwen2.5-coder-1.5b", "--gpu=l4", "--precision=bf16", f"--checkpoint={source}", f"--work={release}"]
    result = CliRunner().invoke(app, ["engine", "prepare", *options])
    assert result.exit_code == 0, result.output
    service = next(container for name, container, _ in containers(rendered["l4"]) if name == "Deployment keyahead service")
    assert {"name": "KEYAHEAD_MODEL_FOLDER", "value": "$(RELEASE)/model"} in service["env"]
    assert (release / "model" / "tokenizer.json").is_file()
    assert f'"{release}/engine"' in (release / "repository" / "tensorrt_llm" / "config.pbtxt").read_text()
    triton = pod(rendered["l4"], "keyahead-triton")["containers"][0]["command"][-1]
    assert '--model-repository="$RELEASE/repository"' in triton


@pytest.mark.parametrize("gpu", LIMITS)
def test_the_job_is_a_build_in_steps(rendered: dict[str, list[Object]], gpu: str) -> None:
    """Each in the image that can do it, and both checks alike; only what the last leaves lets Triton start."""
    spec = one(rendered[gpu], "Job", "keyahead-model")["spec"]["template"]["spec"]
    steps = {each["name"]: each for each in (*spec["initContainers"], *spec["containers"])}
    images = {name: each["image"].rpartition("/")[2].partition(":")[0] for name, each in steps.items()}
    gpus = {name for name, each in steps.items() if "nvidia.com/gpu" in each["resources"]["limits"]}
    assert list(images) == ["prepare", "probe", "check", "build", "finish"]
    assert {name for name, image in images.items() if image == "engine-gpu"} == {"probe", "build"} == gpus
    assert steps["check"]["args"] == steps["finish"]["args"] == ["engine", "check", "--work=$(RELEASE)"]
    triton = pod(rendered[gpu], "keyahead-triton")["containers"][0]["command"][-1]
    assert f"$RELEASE/{job.WHOLE}" in triton
    assert f"$RELEASE/{job.PROBE_LOG}" in steps["probe"]["command"][-1]
    assert steps["build"]["command"][-1].endswith(job.SCRIPT)


@pytest.mark.parametrize(("component", "kinds"), [("volume", {"PersistentVolumeClaim"}), ("model", {"Job", "ConfigMap"})])
def test_a_release_can_be_made_before_it_is_used(objects: list[Object], component: str, kinds: set[str]) -> None:
    """By labels: first the volume, to put weights on, then the Job and all that it reads, and no Deployment."""
    label = "app.kubernetes.io/component"
    assert {each["kind"] for each in objects if each["metadata"].get("labels", {}).get(label) == component} == kinds


def test_the_rules_and_the_dashboard_are_those_of_deploy(objects: list[Object]) -> None:
    """What Prometheus and Grafana read in a cluster is what they read elsewhere."""
    assert one(objects, "PrometheusRule", "keyahead")["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "keyahead.rules.yaml").read_text())
    dashboard = one(objects, "ConfigMap", "keyahead-dashboard")
    assert dashboard["data"]["keyahead.json"] == (DEPLOY / "grafana" / "keyahead.json").read_text()
