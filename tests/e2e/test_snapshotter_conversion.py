"""Ordinary images that become devices on the node, in the background, under the containers that use them."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from obd.snapshotter import labels as L
from tests.e2e.commands import ok
from tests.e2e.containerd import CONTAINERS, PROGRAMS, Node, node_of
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import Registry
from tests.e2e.snapshotter import Client, mounted

pytestmark = CONTAINERS

PATIENCE_S = 120.0
LOOK = "cd /tree; find . -exec stat -c '%n %F %a %u' {} + | sort; cat a/* new 2>/dev/null; true"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """`app:v1`, of three layers that add, replace and take away, and `app:v2` that shares two of them."""
    directory = tmp_path_factory.mktemp("registry")
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    base = Layer().add("bin", kind=b"5").add("bin/busybox", data=busybox, mode=0o755)
    for name in (*PROGRAMS, "find", "sort", "stat"):
        base.add(f"bin/{name}", kind=b"2", linkname="busybox")
    for name in ("etc", "proc", "sys", "dev", "tmp", "tree", "tree/a", "tree/gone", "tree/opaque"):
        base.add(name, kind=b"5")
    base.add("tree/a/one", data=b"1\n").add("tree/a/two", data=b"2\n").add("tree/gone/x", data=b"x")
    base.add("tree/opaque/old", data=b"old\n").add("tree/link", kind=b"1", linkname="tree/a/one")
    base.add("big", data=os.urandom(4 << 20))
    middle = Layer().add("tree/a/.wh.two").add("tree/.wh.gone").add("tree/opaque", kind=b"5", mode=0o750)
    middle.add("tree/opaque/.wh..wh..opq").add("tree/opaque/fresh", data=b"fresh\n", uid=7)
    top = Layer().add("tree/a/one", data=b"one\n").add("tree/new", data=b"new\n")
    layout = Layout(directory / "layout")
    layout.tag(layout.image([base, middle, top]), "v1")
    layout.tag(layout.image([base, middle]), "v2")
    with Registry(directory) as registry:
        for tag in ("v1", "v2"):
            ok("obd", "copy", f"oci:{directory}/layout:{tag}", f"http://{registry.host}/app:{tag}")
        yield registry


@pytest.fixture
def node(registry: Registry, tmp_path: Path) -> Iterator[Node]:
    with node_of(registry, tmp_path, convertLayers=True) as node:
        yield node


def until(what: Callable[[], object], node: Node) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, node.log.read_text()[-4000:]
        time.sleep(0.05)


def pull(node: Node, name: str) -> None:
    node.ok("images", "pull", "--plain-http", "--snapshotter", "overlaybd", node.image(name))


def converted(node: Node) -> list[Path]:
    return sorted(node.root.glob("snapshots/*/block/converted.commit"))


def devices(node: Node) -> list[Path]:
    return sorted(node.root.glob("snapshots/*/block/config.v1.json"))


def test_later_containers_use_the_device_and_earlier_ones_stay(node: Node) -> None:
    pull(node, "app:v1")
    assert converted(node) == []
    keep = ("--detach",)
    node.run("app:v1", "early", "/bin/sh", "-c", "echo early > /tree/a/one; sleep 1000", options=keep)
    until(lambda: devices(node), node)
    assert len(converted(node)) == 3
    assert node.attached() == [], "nobody has been made to use it"
    look = ("/bin/sh", "-c", LOOK)
    said = node.exec("early", "a", *look)
    late = node.run("app:v1", "late", *look)
    assert len(node.attached()) == 1
    assert late.endswith("one\nnew\n")
    assert "early\n" in said
    assert said.replace("early\n", "one\n").splitlines()[:-2] == late.splitlines()[:-2]
    for word in ("gone", "two", "old"):
        assert word not in late
    # Asked for again, the early one's mounts are what they were.
    client = Client(str(node.directory / "snapshotter.sock"))
    key = next(each for each in client.names("kind==active") if each.endswith("early"))
    (mount,) = client.mounts(key)
    assert "mountpoint" not in " ".join(mount.options)
    client.close()
    # What was made for one image is used for another one that shares layers, and only the rest is made.
    before = {path: path.stat().st_mtime_ns for path in converted(node)}
    pull(node, "app:v2")
    node.run("app:v2", "other", "/bin/true")
    until(lambda: len(devices(node)) == 2, node)
    assert {path: path.stat().st_mtime_ns for path in converted(node)} == before
    assert "fresh" in node.run("app:v2", "another", "/bin/ls", "/tree/opaque")
    node.ok("task", "kill", "--signal", "KILL", "early")
    node.ok("task", "delete", "--force", "early")
    node.ok("container", "delete", "early")
    for tag in ("v1", "v2"):
        node.ok("images", "rm", "--sync", node.image(f"app:{tag}"))
    node.until_nothing_is_left()


def test_a_killed_conversion_goes_on_after_the_layers_that_are_whole(node: Node) -> None:
    pull(node, "app:v1")
    node.run("app:v1", "first", "/bin/true")
    until(lambda: converted(node), node)
    node.end("snapshotter", signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in converted(node)}
    for path in done:
        (path.parent / "converted.commit.new").write_bytes(b"torn")
    node.start("snapshotter")
    until(lambda: devices(node), node)
    assert done.items() <= {path: path.stat().st_mtime_ns for path in converted(node)}.items()
    assert node.run("app:v1", "second", "/bin/cat", "/tree/new") == "new\n"
    assert len(node.attached()) == 1


def test_an_image_that_is_removed_meanwhile_is_forgotten(node: Node) -> None:
    pull(node, "app:v1")
    node.run("app:v1", "first", "/bin/true")
    node.ok("images", "rm", "--sync", node.image("app:v1"))
    assert node.snapshots() == set()
    pull(node, "app:v1")
    node.run("app:v1", "second", "/bin/true")
    until(lambda: devices(node), node)
    assert len(converted(node)) == 3
    assert "stays unpacked" not in node.log.read_text()


def test_what_cannot_be_converted_stays_unpacked(node: Node) -> None:
    pull(node, "app:v2")
    client = Client(str(node.directory / "snapshotter.sock"))
    top = client.names("kind==committed")[-1]
    with mounted(client.prepare("key", top), node.directory / "at") as root:
        (root / "more").mkdir()
    (directory,) = (path for path in node.root.glob("snapshots/*/fs/more"))
    os.setxattr(directory, "trusted.overlay.redirect", b"/tree")
    client.commit("odd", "key")
    client.prepare("of the odd one", "odd", **{L.TYPE: "rootfs"})
    until(lambda: "stays unpacked" in node.log.read_text(), node)
    assert "trusted.overlay.redirect" in node.log.read_text()
    assert [mount.type for mount in client.prepare("another", "odd")] == ["overlay"]
    client.close()
