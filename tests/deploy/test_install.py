"""Bringing the program to a node: what is done, what is not done twice, and what a failure says."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.programs import program

install = program("install")

CONTAINERD = "/etc/containerd/config.toml"
UNITS = ("overlaybd-tcmu", "overlaybd-snapshotter")


class Node:
    """A node on which commands do what they would, as far as the next ones see it."""

    def __init__(self, stage: Path) -> None:
        self.stage = stage
        self.log: list[str] = []
        self.package = ""
        self.files: dict[str, str] = {}
        self.clock = 100
        self.started = {"containerd": 1}
        self.written: dict[str, int] = {}
        self.containerd_says = ""
        self.fails = ""

    def __call__(self, argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        self.clock += 1
        line = " ".join(argv)
        self.log.append(line)
        if self.fails and self.fails in line:
            return subprocess.CompletedProcess(argv, 1, "", "one\nno such thing\n")
        out: str | None = ""
        match Path(argv[0]).name:
            case "dpkg-query":
                out = self.package or None
            case "apt-get":
                assert (self.stage / Path(argv[-1]).name).read_bytes() == b"package"
                self.package = f"installed {Path(argv[-1]).name.split('_')[1]}"
                self.written[install.INSTALLED] = self.clock
            case "cat":
                out = self.files.get(argv[1])
            case "install":
                self.files[argv[-1]] = Path(argv[-2]).read_text()
                self.written[argv[-1]] = self.clock
            case "overlaybd-snapshotter":
                says = " ".join(argv[2:-1])
                if self.containerd_says != says:
                    self.containerd_says, self.written[argv[-1]] = says, self.clock
            case "stat":
                out = "\n".join(str(self.written[file]) for file in argv[2:])
            case "systemctl" if argv[1] == "show":
                out = f"@{self.started[argv[-1]]}\n"
            case "systemctl" if argv[1] in ("restart", "start"):
                started = {unit for unit in argv[2:] if argv[1] == "restart" or unit not in self.started}
                self.started.update(dict.fromkeys(started, self.clock))
        return subprocess.CompletedProcess(argv, 1 if out is None else 0, out or "", "")

    def did(self, *words: str) -> list[str]:
        """What begins with one of the words of what was called since this was last asked."""
        found = [line for line in self.log if line.startswith(words)]
        self.log.clear()
        return found


CHANGES = ("apt-get", "install", "systemctl restart")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "stage").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config/overlaybd.json").write_text('{"a": 1}\n')
    (tmp_path / "config/snapshotter.json").write_text('{"b": 1}\n')
    (tmp_path / "overlaybd-python_1.0-1_amd64.deb").write_bytes(b"package")
    return Node(tmp_path / "stage")


def do(node: Node, **changes: Any) -> None:
    values = {
        "package": node.stage.parent / "overlaybd-python_1.0-1_amd64.deb",
        "tcmu": True,
        "containerd_unit": "containerd",
        "containerd_config": CONTAINERD,
        "runtime": "overlaybd",
        "every_pod": False,
        "restart_containerd": True,
    }
    wanted = install.Wanted(**{**values, **changes})
    install.install(wanted, node, stage=node.stage, config=node.stage.parent / "config")


def test_bare_node_gets_all_of_it(node: Node) -> None:
    do(node)
    assert node.package == "installed 1.0-1"
    assert node.files == {
        "/etc/overlaybd/overlaybd.json": '{"a": 1}\n',
        "/etc/overlaybd-snapshotter/config.json": '{"b": 1}\n',
    }
    assert {*UNITS, "containerd"} == set(node.started)
    assert node.containerd_says == "--runtime overlaybd"
    assert node.started["containerd"] > node.written[CONTAINERD]


def test_second_pod_changes_and_restarts_nothing(node: Node) -> None:
    do(node)
    node.did()
    do(node)
    assert node.did(*CHANGES) == []


def test_upgrade_restarts_the_snapshotter_alone(node: Node) -> None:
    do(node)
    node.did()
    newer = node.stage.parent / "overlaybd-python_1.1-1_amd64.deb"
    newer.write_bytes(b"package")
    do(node, package=newer)
    assert node.package == "installed 1.1-1"
    assert node.did("systemctl restart") == ["systemctl restart overlaybd-snapshotter"]


def test_configuration_of_the_host_is_read_anew_without_a_restart_of_devices(node: Node) -> None:
    do(node)
    node.did()
    (node.stage.parent / "config/overlaybd.json").write_text('{"a": 2}\n')
    do(node)
    assert node.files["/etc/overlaybd/overlaybd.json"] == '{"a": 2}\n'
    done = node.did("/opt/overlaybd/bin/obd", "systemctl restart")
    assert done[1:] == ["/opt/overlaybd/bin/obd reload", "systemctl restart overlaybd-snapshotter"]
    assert done[0].startswith("/opt/overlaybd/bin/obd config check ")


def test_wrong_configuration_does_not_get_there(node: Node) -> None:
    node.fails = "config check"
    with pytest.raises(install.StepError, match=r"config check .*: status 1: no such thing"):
        do(node)
    assert node.files == {}


def test_containerd_is_left_to_the_administrator_if_so_wanted(node: Node) -> None:
    for _ in range(2):  # the pod comes again until somebody has done it
        with pytest.raises(install.StepError, match="restart it on this node"):
            do(node, restart_containerd=False)
    assert "systemctl restart containerd" not in node.log
    node.started["containerd"] = node.clock = node.clock + 1
    do(node, restart_containerd=False)


@pytest.mark.parametrize("unit", ["containerd", "overlaybd-snapshotter"])
def test_next_pod_restarts_what_one_that_was_killed_did_not(node: Node, unit: str) -> None:
    do(node)
    (node.stage.parent / "config/snapshotter.json").write_text('{"b": 2}\n')
    node.fails = f"restart {unit}"
    with pytest.raises(install.StepError):
        do(node, every_pod=True)
    node.fails = ""
    node.did()
    do(node, every_pod=True)
    assert f"systemctl restart {unit}" in node.did("systemctl restart")


def test_node_without_tcmu(node: Node) -> None:
    do(node, tcmu=False, every_pod=True)
    assert "overlaybd-tcmu" not in node.started
    assert node.containerd_says == "--cri --runtime overlaybd"


@pytest.mark.parametrize("step", ["apt-get", "systemctl start", "configure-containerd"])
def test_failure_names_the_command_and_the_next_pod_goes_on(node: Node, step: str) -> None:
    node.fails = step
    with pytest.raises(install.StepError, match=f"{step}.*: status 1: no such thing"):
        do(node)
    node.fails = ""
    do(node)
    assert node.started["containerd"] > node.written[CONTAINERD]


def test_no_service_of_devices_is_ever_stopped_or_restarted(node: Node) -> None:
    do(node)
    do(node, package=node.stage.parent / "overlaybd-python_1.0-1_amd64.deb")
    assert not [line for line in node.log if "tcmu" in line and ("restart" in line or "stop" in line)]
