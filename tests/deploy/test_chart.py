"""The chart: Helm renders it, Kubernetes' schemas take what comes out, and its parts fit together."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import obdcore
from obd.config import load_service, service_warnings
from obd.config.strict_json import read_object
from obd.snapshotter.config import parse
from tests.deploy.chart import CHART, DEPLOY, NAMESPACE, RefusedError, lint, needs_helm, objects, render
from tests.deploy.programs import program

pytestmark = needs_helm

EVERYTHING = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
}
CHECK_ONLY = {"host": {"install": False}, "tcmu": False, "runtimeClass": {"create": False}}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": EVERYTHING,
    "check only": CHECK_ONLY,
    "no account, other names": {
        "serviceAccount": {"create": False, "name": "other"},
        "runtimeClass": {"name": "lazy"},
        "imagePullSecrets": [{"name": "secret"}],
        "containerd": {"everyPod": True, "restart": False, "config": "/etc/other.toml", "unit": "k3s"},
        "tolerations": [],
        "priorityClassName": "",
        "updateStrategy": {"type": "OnDelete", "rollingUpdate": None},
    },
}
# The oldest that the chart says it can do with, and the newest that is known here.
VERSIONS = ("1.25.0", None)


def test_linter_is_content() -> None:
    assert lint() == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_takes_it(variant: str, version: str | None) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    found = objects(VARIANTS[variant])
    for kind, each in found.items():
        if kind != "ServiceMonitor":  # no object of Kubernetes itself
            kubernetes.validate(each, version or kubernetes.latest_version(), strict=True)
    assert {"DaemonSet", "ClusterRole", "ClusterRoleBinding"} <= set(found)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"tcmux": True}, "tcmux"),
        ({"watch": {"port": 70000}}, "/watch/port"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"runtimeClass": {"name": "No Name"}}, "/runtimeClass/name"),
        ({"snapshotter": {"rwMode": "block"}}, "/snapshotter/rwMode"),
        ({"snapshotter": {"exporterConfig": {"enable": False}}}, "/snapshotter/exporterConfig/enable"),
        ({"overlaybd": {"exporterConfig": {"enable": False}}}, "/overlaybd/exporterConfig/enable"),
        ({"containerd": {"unit": "a; reboot"}}, "/containerd/unit"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(named)):
        render(values)


def test_configuration_is_what_the_programs_take(tmp_path: Path) -> None:
    data = objects()["ConfigMap"]["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    parse(read_object(str(tmp_path / "snapshotter.json")))
    assert list(service_warnings(load_service(str(tmp_path / "overlaybd.json")))) == []


def test_configuration_differs_from_the_package_in_metrics_alone() -> None:
    data = objects()["ConfigMap"]["data"]
    for name, path in (
        ("overlaybd.json", "overlaybd/overlaybd.json"),
        ("snapshotter.json", "overlaybd-snapshotter/config.json"),
    ):
        chart, package = json.loads(data[name]), json.loads((DEPLOY.parent / "etc" / path).read_text())
        assert {key for key in chart.keys() | package.keys() if chart.get(key) != package.get(key)} <= {
            "exporterConfig",
            "p2pConfig",
            "serviceConfig",
        }


def test_services_do_not_share_a_port() -> None:
    data = objects()["ConfigMap"]["data"]
    ports = {json.loads(text)["exporterConfig"]["port"] for text in data.values()}
    ports.add(yaml.safe_load((CHART / "values.yaml").read_text())["watch"]["port"])
    assert len(ports) == 3


def pod(values: dict[str, Any] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = objects(values)["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def test_pod_that_only_checks_has_no_rights_on_the_node() -> None:
    spec = pod(CHECK_ONLY)
    assert not {"initContainers", "volumes", "hostPID", "hostIPC"} & set(spec)
    (watch,) = spec["containers"]
    assert watch["securityContext"]["runAsNonRoot"]
    assert watch["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "volumeMounts" not in watch


def test_only_the_install_step_is_privileged() -> None:
    spec = pod()
    (install,), (watch,) = spec["initContainers"], spec["containers"]
    assert install["securityContext"] == {"privileged": True}
    assert watch["securityContext"]["runAsNonRoot"]
    assert not watch["securityContext"]["allowPrivilegeEscalation"]


def test_account_may_only_patch_nodes() -> None:
    found = objects()
    assert found["ClusterRole"]["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}]
    (subject,) = found["ClusterRoleBinding"]["subjects"]
    assert subject["name"] == found["ServiceAccount"]["metadata"]["name"] == pod()["serviceAccountName"]
    assert subject["namespace"] == NAMESPACE


def test_pods_are_on_all_nodes_and_go_last() -> None:
    spec = pod()
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"


def test_runtime_class_chooses_ready_nodes() -> None:
    found = objects({"runtimeClass": {"name": "lazy"}})
    runtime = found["RuntimeClass"]
    assert runtime["metadata"]["name"] == runtime["handler"] == "lazy"
    assert runtime["scheduling"] == {"nodeSelector": {"overlaybd.io/ready": "true"}}
    assert "--runtime=lazy" in pod({"runtimeClass": {"name": "lazy"}})["initContainers"][0]["command"]
    assert "runtimeClassName: lazy" in render({"runtimeClass": {"name": "lazy"}})["NOTES.txt"]


def test_changed_configuration_makes_new_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        text: str = objects(values)["DaemonSet"]["spec"]["template"]["metadata"]["annotations"][
            "checksum/config"
        ]
        return text

    assert checksum({}) == checksum({"watch": {"port": 9999}})
    assert checksum({}) != checksum({"snapshotter": {"rwMode": "dir"}})


def test_prometheus_finds_what_is_served() -> None:
    found = objects(EVERYTHING)
    monitor, service = found["ServiceMonitor"], found["Service"]
    labels = found["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (port,) = service["spec"]["ports"]
    (watch,) = pod(EVERYTHING)["containers"]
    assert port["targetPort"] in [each["name"] for each in watch["ports"]]
    served = {word.split("=")[0] for word in watch["command"] if re.fullmatch(r"\w+=\d+", word)}
    assert {each["path"] for each in monitor["spec"]["endpoints"]} == {f"/metrics/{name}" for name in served}
    assert {each["port"] for each in monitor["spec"]["endpoints"]} == {port["name"]}


def test_dashboard_comes_along() -> None:
    data = objects(EVERYTHING)["Dashboard"]["data"]
    assert json.loads(data["overlaybd.json"]) == json.loads((CHART / "dashboards/overlaybd.json").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_programs_take_their_arguments(variant: str) -> None:
    spec = pod(VARIANTS[variant])
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        python, file, *words = container["command"]
        assert python == "python3"
        program({"install.py": "install", "watch.py": "watch"}[Path(file).name]).parser().parse_args(words)
        assert f"deploy/image/{Path(file).name}" in (DEPLOY / "image/Dockerfile").read_text()


def test_version_is_that_of_the_program() -> None:
    program = obdcore.__version__
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (program, program)
