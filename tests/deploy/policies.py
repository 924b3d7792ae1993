"""What every rendered object must keep to; each rule gives the sentences that say where it is broken."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from keyahead.engine.cpu import stats
from keyahead.service.config import PREFIX, ServiceConfig
from keyahead.service.health import READINESS, TOLD_S
from keyahead.service.metrics import QUEUE, STAGES, Metrics
from keyahead.service.server import DRAIN_GRACE_S, FLUSH_S

Object = dict[str, Any]

SECRET = {"KEYAHEAD_REDIS_URL", "KEYAHEAD_CACHE_KEY"}
SETTINGS = {PREFIX + each.name.upper() for each in dataclasses.fields(ServiceConfig)}
OF_THE_ENGINE = {"KEYAHEAD_MODEL_NAME", "KEYAHEAD_CACHE", *SECRET}
"""What other containers than the service read."""
TRITON_EXIT_S = 3
"""--exit-timeout-secs."""
DNS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
WIDEST_REDIS = 24


def violations(objects: list[Object]) -> list[str]:
    """All of them; an installation that may be applied has none."""
    rules = (_pods, _volumes, _containers, _probes, _drain, _environment, _network, _secrets, _scaling, _disruptions, _monitors)
    return [sentence for rule in rules for sentence in rule(objects)]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """(name, pod's spec) of every workload."""
    for each in objects:
        spec = each.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield f"{each['kind']} {each['metadata']['name']}", spec["template"]["spec"]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """(name, container, pod's spec) of every one, those that only prepare included."""
    for name, pod in pods(objects):
        for each in (*pod.get("initContainers", ()), *pod["containers"]):
            yield f"{name} {each['name']}", each, pod


def long_running(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """The containers of Deployments."""
    yield from containers([each for each in objects if each["kind"] == "Deployment"])


def configuration(objects: list[Object]) -> dict[str, str]:
    """The settings that containers take from the ConfigMap."""
    maps = [each for each in objects if each["kind"] == "ConfigMap" and "RELEASE" in each["data"]]
    assert len(maps) == 1
    return dict(maps[0]["data"])


def _pods(objects: list[Object]) -> Iterator[str]:
    """Restricted Pod Security, and no token of the API."""
    namespace = next(each for each in objects if each["kind"] == "Namespace")
    if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce restricted Pod Security"
    for name, pod in pods(objects):
        security = pod.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
            yield f"{name} may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name} has no seccomp profile"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name} mounts a token of the API"
        if pod.get("enableServiceLinks") is not False:
            yield f"{name} gets variables of services, which look like settings"
        if any(pod.get(each) for each in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name} shares the node's namespaces"


def _volumes(objects: list[Object]) -> Iterator[str]:
    """Nothing of the node, and nothing that can fill it."""
    for name, pod in pods(objects):
        for volume in pod.get("volumes", ()):
            if not volume.keys() & {"emptyDir", "persistentVolumeClaim", "secret", "configMap"}:
                yield f"{name} mounts {volume['name']} from elsewhere"
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{name} has an unbounded volume {volume['name']}"


def _containers(objects: list[Object]) -> Iterator[str]:
    for name, container, _ in containers(objects):
        security, resources = container.get("securityContext", {}), container.get("resources", {})
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            yield f"{name} may gain privileges"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} keeps capabilities"
        if security.get("readOnlyRootFilesystem") is not True:
            yield f"{name} can write to its root file system"
        if security.get("runAsUser") == 0 or security.get("runAsNonRoot") is False:
            yield f"{name} runs as root"
        if not {"cpu", "memory", "ephemeral-storage"} <= resources.get("limits", {}).keys():
            yield f"{name} has no limits"
        if resources.get("limits") != resources.get("requests"):
            yield f"{name} does not request what it may take"
        if not re.search(r"(:[^/:]+|@sha256:[0-9a-f]{64})$", container["image"]) or container["image"].endswith(":latest"):
            yield f"{name} has an image without a version"
        if "--threads" in (args := container.get("args", [])) and args[args.index("--threads") + 1] != resources["limits"]["cpu"]:
            yield f"{name} has another number of threads than of cores"


def _probes(objects: list[Object]) -> Iterator[str]:
    """Those of gRPC, and readiness another than liveness where the two can differ."""
    for name, container, _ in long_running(objects):
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            if "grpc" not in container.get(kind, {}):
                yield f"{name} has no {kind} over gRPC"
        if container["name"] != "service":
            continue
        for kind, service in (("livenessProbe", ""), ("startupProbe", ""), ("readinessProbe", READINESS)):
            if container.get(kind, {}).get("grpc", {}).get("service", "") != service:
                yield f"{name} asks for the wrong service in its {kind}"


def _drain(objects: list[Object]) -> Iterator[str]:
    """The grace period covers the wait before the drain, and the drain."""
    for name, container, pod in long_running(objects):
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = TOLD_S + DRAIN_GRACE_S + FLUSH_S if container["name"] == "service" else TRITON_EXIT_S
        if not before:
            yield f"{name} refuses calls before its clients know that it goes"
        if pod.get("terminationGracePeriodSeconds", 0) < before + drain + 5:
            yield f"{name} is killed while it drains"


def _environment(objects: list[Object]) -> Iterator[str]:
    """Every variable of ours is a setting, or something that the engine's command reads; what refers to a variable finds it."""
    settings = {each for each in configuration(objects) if each.startswith(PREFIX)}
    for name, container, _ in containers(objects):
        own = {each["name"] for each in container.get("env", ()) if each["name"].startswith(PREFIX)}
        known = SETTINGS if container["name"] == "service" else OF_THE_ENGINE
        given = own | settings if "envFrom" in container else own
        yield from (f"{name} sets {each}, which is no setting" for each in sorted(given - known))
        variables = {each["name"] for each in container.get("env", ())} | (
            configuration(objects).keys() if "envFrom" in container else set()
        )
        used = re.findall(r"\$\((\w+)\)", str([container.get(each) for each in ("command", "args", "env")]))
        yield from (f"{name} refers to {each}, which it does not have" for each in sorted(set(used) - variables))


def _secrets(objects: list[Object]) -> Iterator[str]:
    """By reference only."""
    yield from (f"{each['metadata']['name']} is a Secret in clear" for each in objects if each["kind"] == "Secret")
    yield from (f"{each} is a secret in a ConfigMap" for each in sorted(SECRET & configuration(objects).keys()))
    for name, container, _ in containers(objects):
        for each in container.get("env", ()):
            if each["name"] in SECRET and "secretKeyRef" not in each.get("valueFrom", {}):
                yield f"{name} has {each['name']} in clear"
    for each in objects:
        if re.search(r"(rediss?(\+\w+)?://|-----BEGIN)", str(each)):
            yield f"{each['kind']} {each['metadata']['name']} holds an address with a password, or a key"


def _network(objects: list[Object]) -> Iterator[str]:
    """All is denied; what may leave a pod goes to Triton, to Redis' addresses, and to DNS."""
    policies = [each["spec"] for each in objects if each["kind"] == "NetworkPolicy"]
    if not any(each == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for each in policies):
        yield "not everything is denied by default"
    for policy in policies:
        for rule in policy.get("egress", ()):
            if not rule.get("to") or not rule.get("ports"):
                yield "an egress rule allows every address or port"
            for peer in rule.get("to", ()):
                if not _may_be_reached(peer):
                    yield f"code may leave to {peer}"
        for rule in policy.get("ingress", ()):
            if not rule.get("from") or not rule.get("ports"):
                yield "an ingress rule allows everybody or every port"
            yield from (f"anybody may call by {each}" for each in rule.get("from", ()) if not _selects(each))


def _may_be_reached(peer: Object) -> bool:
    if "ipBlock" in peer:
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return isinstance(network, ipaddress.IPv4Network) and network.prefixlen >= WIDEST_REDIS
    if "namespaceSelector" in peer:
        return peer == {**DNS, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    return peer == {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "keyahead-triton"}}}


def _selects(peer: Object) -> bool:
    return any(peer.get(kind, {}).get("matchLabels") for kind in ("podSelector", "namespaceSelector"))


def _scaling(objects: list[Object]) -> Iterator[str]:
    """Every Deployment is scaled, by metrics and stages that exist, and never below two."""
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in objects if each["kind"] == "ScaledObject"}
    for each in objects:
        if each["kind"] == "Deployment" and each["metadata"]["name"] not in scaled:
            yield f"{each['metadata']['name']} is not scaled"
    known = metric_names()
    for name, spec in scaled.items():
        if spec.get("minReplicaCount", 0) < 2 or spec["maxReplicaCount"] <= spec["minReplicaCount"]:
            yield f"{name} may be alone"
        for trigger in spec["triggers"]:
            query = trigger["metadata"]["query"]
            used = set(re.findall(r"\b((?:keyahead|process|nv)_\w+)", query))
            if not used or used - known:
                yield f"{name} is scaled by {sorted(used - known) or 'nothing'}, which does not exist"
            stages = {stage for found in re.findall(r'stage=~?"([^"]+)"', query) for stage in found.split("|")}
            yield from (f"{name} is scaled by the stage {each}, which does not exist" for each in sorted(stages - {*STAGES, QUEUE}))


def metric_names() -> set[str]:
    """Every series that service and engine show."""
    families = Metrics().registry.collect()
    of_service = {sample.name for family in families for sample in family.samples}
    # A histogram shows its series when it is first used.
    histograms = {f"{family.name}_{end}" for family in families if family.type == "histogram" for end in ("bucket", "sum", "count")}
    return of_service | histograms | set(stats._HELP)


def _disruptions(objects: list[Object]) -> Iterator[str]:
    """A budget for every Deployment, and its pods on different nodes."""
    budgets = [each["spec"]["selector"] for each in objects if each["kind"] == "PodDisruptionBudget"]
    for each in (each for each in objects if each["kind"] == "Deployment"):
        name, spec = each["metadata"]["name"], each["spec"]
        if spec["selector"] not in budgets:
            yield f"{name} has no budget of disruptions"
        topologies = {spread["topologyKey"] for spread in spec["template"]["spec"].get("topologySpreadConstraints", ())}
        if not {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} <= topologies:
            yield f"{name} may lie on one node"
        if spec["strategy"] != {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}:
            yield f"{name} loses a replica in every release"


def _monitors(objects: list[Object]) -> Iterator[str]:
    """Prometheus finds every Deployment's metrics by its Service, whose ports are the container's."""
    services = [each for each in objects if each["kind"] == "Service"]
    monitors = [each["spec"] for each in objects if each["kind"] == "ServiceMonitor"]
    for each in (each for each in objects if each["kind"] == "Deployment"):
        name, pod = each["metadata"]["name"], each["spec"]["template"]
        ports = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
        own = [service for service in services if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
        open_ports = {port["name"] for service in own for port in service["spec"]["ports"] if port["targetPort"] in ports}
        labels = [service["metadata"].get("labels", {}) for service in own]
        watching = [spec for spec in monitors if any(spec["selector"]["matchLabels"].items() <= found.items() for found in labels)]
        if not {end["port"] for spec in watching for end in spec["endpoints"]} & open_ports:
            yield f"{name} is not watched by Prometheus"
