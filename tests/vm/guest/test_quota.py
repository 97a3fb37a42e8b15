"""Quotas of containers, on file systems that keep project quotas: what is too much is refused, no more."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from obd.snapshotter import labels as L
from obd.snapshotter.config import SnapshotterConfig
from obd.snapshotter.snapshots import Caller, Snapshots
from tests.e2e.disks import tool
from tests.e2e.snapshotter import mounted

MIB = 1 << 20


@contextmanager
def file_system(directory: Path, *mkfs: str) -> Iterator[Path]:
    """A file system of its own that keeps project quotas."""
    disk, point = directory / "disk", directory / "at"
    with disk.open("wb") as file:
        file.truncate(400 * MIB)
    point.mkdir()
    tool(*mkfs, str(disk))
    tool("mount", "-o", "loop,prjquota", str(disk), str(point))
    try:
        yield point
    finally:
        tool("umount", str(point))


def write(path: Path, size: int) -> int:
    """Writes so many bytes as go into a file; the error that ended it, 0 if there was none."""
    with path.open("wb", buffering=0) as file:
        try:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
            os.fsync(file.fileno())
        except OSError as error:
            return error.errno or -1
    return 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_container_may_write_so_much_and_no_more(kind: str, tmp_path: Path) -> None:
    for name in ("overlay", "loop", kind, "quota_v2"):
        tool("modprobe", name)
    mkfs = {"ext4": ("mkfs.ext4", "-q", "-O", "project,quota"), "xfs": ("mkfs.xfs", "-q")}[kind]
    with file_system(tmp_path, *mkfs) as place:
        snapshots = Snapshots(SnapshotterConfig(root=str(place / "root"), rootfs_quota="8m", containerd=""))
        try:
            story(snapshots, tmp_path / "merged")
        finally:
            snapshots.close()


def story(snapshots: Snapshots, at: Path) -> None:
    """Two containers of one image, one with a quota of its own."""
    caller = Caller()
    base = snapshots.prepare("default/1/extract-1 base", "", {}, caller)
    with mounted(base, at) as root:
        assert write(root / "big", 12 * MIB) == 0, "layers are not limited"
        (root / "small").write_bytes(bytes(MIB))
    snapshots.commit("default/1/extract-1 base", "base", {}, caller)
    usual = snapshots.prepare("usual", "base", {}, caller)
    more = snapshots.prepare("more", "base", {L.QUOTA: "16MiB"}, caller)
    with mounted(usual, at) as root:
        assert write(root / "file", 6 * MIB) == 0
        (root / "small").write_bytes(b"copied up")
        assert write(root / "file2", 6 * MIB) in (errno.EDQUOT, errno.ENOSPC)
        (root / "file").unlink()
        assert write(root / "file3", 2 * MIB) == 0
    with mounted(more, at) as root:
        assert write(root / "file", 12 * MIB) == 0
        assert write(root / "file2", 12 * MIB) in (errno.EDQUOT, errno.ENOSPC)
    for key in ("usual", "more"):
        snapshots.remove(key)
