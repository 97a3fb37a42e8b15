"""The Job that converts an image: Kubernetes takes it, and `obd convert` its arguments."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart import DEPLOY
from tools.obd.convert import COMMAND

JOB: dict[str, Any] = yaml.safe_load((DEPLOY / "convert/job.yaml").read_text())
SPEC: dict[str, Any] = JOB["spec"]["template"]["spec"]


def test_kubernetes_takes_it() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    kubernetes.validate(JOB, kubernetes.latest_version(), strict=True)


def test_command_takes_its_arguments(tmp_path: Path) -> None:
    (container,) = SPEC["containers"]
    program, verb, *words = container["command"]
    assert (program, verb) == ("/opt/overlaybd/bin/obd", "convert")
    # The paths of the pod, in a room of this machine: the command looks whether its files are there.
    for mount in container["volumeMounts"]:
        (tmp_path / mount["mountPath"].strip("/")).mkdir()
    for volume in SPEC["volumes"]:
        for item in volume.get("secret", {}).get("items", []):
            (tmp_path / volume["name"] / item["path"]).touch()
    args = COMMAND.parse([re.sub("^(--.*)=/", rf"\1={tmp_path}/", word) for word in words])
    assert Path(args.work).is_dir()
    assert args.source != args.destination


def test_it_needs_no_privileges() -> None:
    (container,) = SPEC["containers"]
    assert SPEC["securityContext"]["runAsNonRoot"]
    assert not SPEC["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_it_ends() -> None:
    assert SPEC["restartPolicy"] == "Never"
    assert JOB["spec"]["backoffLimit"] <= 6
    assert JOB["spec"]["activeDeadlineSeconds"]


def test_document_shows_the_same_command() -> None:
    text = (DEPLOY.parent / "docs/kubernetes.md").read_text()
    assert re.search(r"kubectl create --filename \S*deploy/convert/job.yaml", text)
