"""A node whose kernel has devices: Debian's containerd and runc on our snapshotter, with TCMU and with ublk.

One story for each, since guests are slow; each step needs what the ones before it have left.
"""

import shlex
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import obd.attach
from obd.containerd.client import Containerd
from obd.snapshotter import labels as L
from obdcore import ublk_info
from tests.e2e.commands import end
from tests.e2e.containerd import Node, build, missing
from tests.e2e.disks import tool
from tests.e2e.servers import Registry
from tests.vm.guest.tcmu_disk import Daemon, running

pytestmark = pytest.mark.skipif(bool(lack := missing()), reason=f"no containers here: {lack}")

APP = "app:v1-obd"
PLAIN = "app:v1"
BIG = 4 << 20
WRITABLE = {mode: ("--snapshotter-label", f"{L.WRITABLE}={mode}") for mode in ("dir", "dev")}


VIA = {"uml": "tcmu", "qemu": "ublk", "qemu2": "ublk"}
DEVICES = {"tcmu": "/dev/sd", "ublk": "/dev/ublkb"}


@pytest.fixture
def registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Registry]:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path / "run"))
    with Registry(tmp_path / "registry") as registry:
        plain = request.function is test_the_life_of_containers
        build(tmp_path / "registry", registry, big=BIG, plain=plain)
        yield registry


@pytest.mark.timeout(900)
def test_the_life_of_containers(guest: str, registry: Registry, tmp_path: Path) -> None:
    """In `make test` by TCMU; by ublk too in `make test-vm`."""
    via = VIA[guest]
    with (
        running(tmp_path) if via == "tcmu" else nullcontext() as daemon,
        node_by(via, tmp_path, registry) as node,
    ):
        pull_and_run(node, via)
        beside_ordinary_images(node)
        what_runs_survives(node, daemon)
        write_and_commit(node)
        leases_keep(node)
        prune(node)


@pytest.mark.guest("qemu")
@pytest.mark.timeout(900)
def test_a_container_by_ublk(registry: Registry, tmp_path: Path) -> None:
    with node_by("ublk", tmp_path, registry) as node:
        pull_and_run(node, "ublk")
        node.run(APP, "long", "/bin/sleep", "1000", options=("--detach",))
        kill_server()
        assert look(node, "long", "cat /etc/name; head -c 9 /big | wc -c") == "two\n9\n"
        delete(node, "long")
        node.ok("images", "rm", "--sync", node.image(APP))
        prune(node)


def node_by(via: str, directory: Path, registry: Registry) -> Node:
    """A node whose devices are attached in one way."""
    tool("modprobe", "overlay")
    return Node(directory, registry, attach=via)


def pull_and_run(node: Node, via: str) -> None:
    """No layer is fetched by the pull; a container reads its image through a device of the kernel."""
    assert node.pull(APP) == {"lazy": 2, "fetched": 0, "present": 0}
    assert len(node.ok("content", "ls", "-q").split()) == 2, "manifest and configuration"
    assert node.run(APP, "first", "/bin/cat", "/etc/name", "/etc/more") == "two\nmore\n"
    (known,) = obd.attach.attachments()
    assert known.via == via and known.path.startswith(DEVICES[via])


def look(node: Node, container: str, script: str) -> str:
    """What a script says in a running container."""
    return node.exec(container, "look", "/bin/sh", "-c", script)


def delete(node: Node, container: str) -> None:
    """Ends a container that runs."""
    node.ok("task", "kill", "--signal", "KILL", container)
    node.ok("task", "delete", "--force", container)
    node.ok("container", "delete", container)


def kill_server() -> None:
    """Kills the process behind the one ublk disk."""
    (known,) = obd.attach.attachments()
    end(ublk_info(int(known.path.removeprefix("/dev/ublkb")))["pid"], signal.SIGKILL)


def beside_ordinary_images(node: Node) -> None:
    """An image of ordinary layers runs on the same snapshotter, unpacked."""
    node.ok("images", "pull", "--plain-http", "--snapshotter", "overlaybd", node.image(PLAIN))
    assert node.run(PLAIN, "plain", "/bin/cat", "/etc/name") == "two\n"
    assert len(node.attached()) == 1, "it needs none"


def what_runs_survives(node: Node, daemon: Daemon | None) -> None:
    """Whoever serves a container may be killed: it waits, and reads on."""
    node.run(APP, "long", "/bin/sh", "-c", "echo long > /etc/name; sleep 1000", options=("--detach",))
    (before,) = node.attached()
    node.end("snapshotter", signal.SIGKILL)
    if daemon:
        daemon.end(signal.SIGKILL)
        daemon.start()
    else:
        kill_server()
    node.start("snapshotter")  # with ublk it is this that has the device served again
    assert look(node, "long", "cat /etc/name; head -c 9 /big | wc -c") == "long\n9\n"
    assert node.attached() == [before]
    delete(node, "long")


def write_and_commit(node: Node) -> None:
    """Containers on devices of their own; what one wrote becomes a snapshot that others run on."""
    node.run(
        APP, "own", "/bin/sh", "-c", "echo three > /etc/name; rm /etc/more; sync", options=WRITABLE["dir"]
    )
    snapshots = ("snapshots", "--snapshotter", "overlaybd")
    node.ok(*snapshots, "commit", "changed", "own")
    assert L.COMMIT_PATH in node.ok(*snapshots, "info", "changed")
    point = node.directory / "changed"
    point.mkdir()
    tool(*shlex.split(node.ok(*snapshots, "prepare", "--target", str(point), "next", "changed")))
    assert node.ok("run", "--rm", "--rootfs", str(point), "rooted", "/bin/cat", "/etc/name") == "three\n"
    assert not (point / "etc/more").exists()
    tool("umount", point)
    script = "echo four > /etc/name; cat /etc/name"
    assert node.run(APP, "raw", "/bin/sh", "-c", script, options=("--rm", *WRITABLE["dev"])) == "four\n"
    for each in ("next", "changed"):
        node.ok(*snapshots, "rm", each)
    node.ok("container", "delete", "own")


def leases_keep(node: Node) -> None:
    """What was made under a lease outlives its image, and goes with the lease."""
    node.ok("images", "rm", "--sync", node.image(PLAIN))
    layers = node.snapshots()
    assert len(layers) == 2 and len(node.attached()) == 1, "only those of the other image are left"
    (top,) = (line.split()[0] for line in listed(node) if len(line.split()) == 3)
    with Containerd(str(node.socket), "default") as containerd, containerd.lease():
        containerd.snapshots("Prepare", "overlaybd", key="kept", parent=top)
        node.ok("images", "rm", "--sync", node.image(APP))
        assert node.snapshots() == {*layers, "kept"}
        assert node.attached()


def prune(node: Node) -> None:
    """Nothing is left once nothing is wanted any more."""
    node.collect()
    node.until_nothing_is_left()
    assert node.ok("content", "ls", "-q") == ""


def listed(node: Node) -> list[str]:
    """Snapshots, their parents and kinds."""
    return node.ok("snapshots", "--snapshotter", "overlaybd", "ls").splitlines()[1:]
