"""What the snapshotter does if it is told to: Docker's layers, and quotas where there can be none."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from obd.snapshotter import labels as L
from obd.snapshotter.config import SnapshotterConfig
from obd.snapshotter.layout import Layout
from obd.snapshotter.process import Running
from tests.e2e.snapshotter import Client, Refused, mounted, tree


@pytest.fixture
def config(tmp_path: Path) -> SnapshotterConfig:
    return SnapshotterConfig(root=str(tmp_path / "root"), address=str(tmp_path / "socket"), containerd="")


@contextmanager
def serving(config: SnapshotterConfig) -> Iterator[Client]:
    with Running(config):
        client = Client(config.address)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def tmpfs(directory: Path) -> Iterator[None]:
    """A file system that knows no projects."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def image(client: Client, at: Path) -> str:
    with mounted(client.prepare("extract-1 base"), at) as root:
        (root / "name").write_text("image")
        (root / "hosts").write_text("image")
    client.commit("base", "extract-1 base")
    return "base"


def test_layers_of_docker(config: SnapshotterConfig, tmp_path: Path) -> None:
    at = tmp_path / "at"
    with serving(replace(config, runtime_type="docker")) as client:
        base = image(client, at)
        (mount,) = client.prepare("c1-init", base)
        assert (mount.type, list(mount.options)) == ("bind", ["rw", "rbind"])
        with mounted([mount], at) as root:
            assert tree(root) == {}
            (root / "hosts").write_text("docker")
        client.commit("c1-init-done-init", "c1-init")
        with mounted(client.prepare("c1", "c1-init-done-init"), at) as root:
            assert tree(root) == {"name": "image", "hosts": "docker"}
            (root / "name").write_text("container")
        with mounted(client.mounts("c1"), at) as root:
            assert tree(root) == {"name": "container", "hosts": "docker"}
    with serving(config) as client:
        (mount,) = client.prepare("c2-init", base)
        assert mount.type == "overlay", "elsewhere a name is a name"


@pytest.mark.parametrize("by", ["label", "configuration"])
def test_quotas_that_cannot_be_kept_are_refused(config: SnapshotterConfig, tmp_path: Path, by: str) -> None:
    labels = {L.QUOTA: "8m"} if by == "label" else {}
    root = Path(config.root)
    root.mkdir()
    with tmpfs(root), serving(replace(config, rootfs_quota="" if labels else "1g")) as client:
        base = image(client, tmp_path / "at")
        with pytest.raises(Refused, match="project quotas are not to be had there") as caught:
            client.prepare("c1", base, **labels)
        assert caught.value.code == "FAILED_PRECONDITION"
        assert client.names() == [base]
        client.view("look", base, **labels)
        with pytest.raises(Refused, match=r"disk_quota: 'much' must be a size") as caught:
            client.prepare("c1", base, **{L.QUOTA: "much"})
        assert caught.value.code == "INVALID_ARGUMENT"


def test_a_directory_with_a_mount_inside_is_not_taken_away(config: SnapshotterConfig, tmp_path: Path) -> None:
    with serving(config) as client:
        client.prepare("key")
        directory = tmp_path / "root" / "snapshots" / "77"
        (directory / "fs").mkdir(parents=True)
        layout = Layout(config.root)
        with tmpfs(directory / "fs"), pytest.raises(OSError, match="a file system is mounted there"):
            layout.retire(77)
        assert layout.numbers() == [1, 77]
        layout.retire(77)
        assert layout.numbers() == [1]
