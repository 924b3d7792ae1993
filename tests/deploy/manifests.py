"""Manifests as Kustomize renders them: how to get, find and validate the objects."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tests.deploy.policies import Object

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = "1.37"
CUSTOM = {
    "ScaledObject": {"spec": {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "advanced", "triggers"}},
    "ServiceMonitor": {"spec": {"selector", "endpoints"}},
    "PrometheusRule": {"spec": {"groups"}},
}
"""Kinds that Kubernetes has no schema for, and the fields that ours have."""


def render(kubectl: Path, folder: Path) -> list[Object]:
    """What would be applied; Kustomize must have nothing to complain of."""
    run = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return list(yaml.safe_load_all(run.stdout))


def one(objects: list[Object], kind: str, name: str) -> Any:
    """The object of this kind and name, whose hash is left out."""
    return next(each for each in objects if each["kind"] == kind and re.sub(r"-[a-z0-9]{10}$", "", each["metadata"]["name"]) == name)


def pod(objects: list[Object], name: str = "keyahead") -> Any:
    """A Deployment's pod."""
    return one(objects, "Deployment", name)["spec"]["template"]["spec"]


def validate(objects: list[Object]) -> None:
    """Against the schemas of Kubernetes' API, with no unknown field; of other kinds, all fields are those that we know."""
    for each in objects:
        if each["kind"] in CUSTOM:
            assert each["spec"].keys() == CUSTOM[each["kind"]]["spec"]
            assert each["apiVersion"] in {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
        else:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
