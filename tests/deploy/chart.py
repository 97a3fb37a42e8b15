"""The chart, as Helm itself renders it: its SDK, in a process of its own since it brings Go's runtime."""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm" / "overlaybd"
RELEASE = "demo"
NAMESPACE = "kube-system"

needs_helm = pytest.mark.skipif(
    importlib.util.find_spec("helm_python") is None, reason="helm-python-sdk is not installed"
)

_SCRIPT = """
import json, sys
import helm_python as helm
order = json.load(sys.stdin)
answer = {"lint": helm.lint(order["chart"])["errors"]}
try:
    with helm.Chart.load(order["chart"]) as chart:
        answer["files"] = chart.render(order["values"], name=order["name"], namespace=order["namespace"])
except helm.HelmError as error:
    answer["error"] = str(error)
json.dump(answer, sys.stdout)
"""


class RefusedError(Exception):
    """Helm refuses the values."""


@functools.cache
def _helm(values: str) -> dict[str, Any]:
    order = {"chart": str(CHART), "values": json.loads(values), "name": RELEASE, "namespace": NAMESPACE}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], input=json.dumps(order), capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def lint() -> list[str]:
    """What Helm's linter finds wrong."""
    found: list[str] = _helm("{}")["lint"]
    return found


def render(values: dict[str, Any] | None = None) -> dict[str, str]:
    """Texts of the rendered files by their names in `templates`. Raises `RefusedError`."""
    answer = _helm(json.dumps(values or {}, sort_keys=True))
    if "error" in answer:
        raise RefusedError(answer["error"])
    return {name.split("/templates/")[1]: text for name, text in answer["files"].items()}


def objects(values: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The rendered objects by their kinds; a dashboard is `Dashboard`."""
    found: dict[str, dict[str, Any]] = {}
    for name, text in render(values).items():
        if name != "NOTES.txt":
            for each in yaml.safe_load_all(text):
                if each:
                    kind = "Dashboard" if name == "dashboard.yaml" else each["kind"]
                    assert kind not in found
                    found[kind] = each
    return found
