"""Makes Prometheus' rules and Grafana's dashboard from deploy/slo.yaml, or with --check says whether they are current.

The rules are made twice: as Prometheus reads them, and as an object of Kubernetes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import slo_dashboard
import slo_rules
import yaml

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
HEAD = "# Made from deploy/slo.yaml by `make slo`; do not edit.\n"


def generated() -> dict[Path, str]:
    """The files and what they should hold."""
    slo = slo_rules.read(DEPLOY / "slo.yaml")
    rules = slo_rules.rules(slo)
    return {
        DEPLOY / "prometheus" / "keyahead.rules.yaml": _yaml(rules),
        DEPLOY / "kubernetes" / "base" / "rules.yaml": _yaml(
            {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "keyahead"}, "spec": rules}
        ),
        DEPLOY / "grafana" / "keyahead.json": slo_dashboard.render(slo),
    }


def _yaml(content: dict[str, object]) -> str:
    return HEAD + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes what repeats again, rather than as an alias."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the library's signature
        """See yaml.Dumper."""
        return True


def _string(dumper: _Dumper, value: str) -> yaml.Node:
    """Several lines as such."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _string)


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    files = generated()
    if arguments != ["--check"]:
        for path, content in files.items():
            path.write_text(content)
        return 0
    stale = [path.name for path, content in files.items() if not path.exists() or path.read_text() != content]
    if stale:
        print(f"{' and '.join(stale)} in deploy/ are not what deploy/slo.yaml says: run 'make slo'.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
