"""Layers of turboOCI and layers with hash trees, under containerd."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from obd.oci.trees import TREE_KEYS
from tests.e2e.commands import ok
from tests.e2e.containerd import CONTAINERS, Node, build, node_of
from tests.e2e.servers import Registry

pytestmark = CONTAINERS


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """`app:v1-turbo` over the layers of `app:v1`; `app:v1-tree` with hash trees."""
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory) as registry:
        build(directory, registry, big=4 << 20)
        source = f"http://{registry.host}/app:v1"
        ok("obd", "convert", "--turbo", source, f"{source}-turbo")
        ok("obd", "convert", "--merkle", source, f"{source}-tree")
        yield registry


def fetched(node: Node) -> int:
    return sum(512 * file.stat().st_blocks for file in node.directory.glob("cache/**/*") if file.is_file())


def configurations(node: Node) -> list[list[dict[str, object]]]:
    """The layers of all devices."""
    files = node.root.glob("snapshots/*/block/config.v1.json")
    return [json.loads(file.read_text())["lowers"] for file in files]


def test_original_layers_are_read_lazily(registry: Registry, tmp_path: Path) -> None:
    with node_of(registry, tmp_path) as node:
        assert node.pull("app:v1-turbo") == {"lazy": 0, "fetched": 2, "present": 0}
        assert fetched(node) == 0
        name = "app:v1-turbo"
        assert node.run(name, "first", "/bin/cat", "/etc/name", "/etc/more") == "two\nmore\n"
        assert 0 < fetched(node) < 3 << 20, "the image has more than 4 MiB"
        before = node.run("app:v1-turbo", "sum", "/bin/md5sum", "/big")
        node.pull("app:v1-obd")
        assert node.run("app:v1-obd", "same", "/bin/md5sum", "/big") == before
        for image in ("app:v1-turbo", "app:v1-obd"):
            node.ok("images", "rm", "--sync", node.image(image))
        node.until_nothing_is_left()


def test_layers_with_hash_trees(registry: Registry, tmp_path: Path) -> None:
    with node_of(registry, tmp_path, service={"verifyChunks": "required"}) as node:
        node.pull("app:v1-tree")
        assert [len(lowers) for lowers in configurations(node)] in ([1, 2], [2, 1])
        assert all("merkle" in lower for lowers in configurations(node) for lower in lowers)
        assert node.run("app:v1-tree", "first", "/bin/cat", "/etc/name") == "two\n"
        node.ok("images", "rm", "--sync", node.image("app:v1-tree"))
        # One that nobody can prove is refused, with the reason.
        node.pull("app:v1-obd")
        done = node.ctr(
            "run", "--rm", "--snapshotter", "overlaybd", node.image("app:v1-obd"), "c", "/bin/true"
        )
        assert done.returncode
        assert "no device" in done.stderr
        assert "verifyChunks" in done.stderr


def test_containerd_hands_on_where_a_tree_is(registry: Registry) -> None:
    """What begins with another word is not handed on to snapshotters."""
    found = json.loads(ok("obd", "inspect", "--raw", f"http://{registry.host}/app:v1-tree").out)
    for layer in found["layers"]:
        handed = {key for key in layer["annotations"] if key.startswith("containerd.io/snapshot/")}
        assert len(handed & set(TREE_KEYS)) == 3
