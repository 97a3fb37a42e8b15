"""Devices as the existing Go snapshotter makes and takes them away: each step in configfs, in its order."""

import errno
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.e2e.disks import tool
from tests.e2e.upstream import Tree

TARGET = Path("/sys/kernel/config/target")
TENANT = 999999999
LONG_S = "2147483"
ENABLE_ATTEMPTS, ENABLE_WAIT_S = 100, 0.05
# It looks 50 times, which is half a second: on a busy machine a disk may come later, so here it looks longer.
LOOK_ATTEMPTS, LOOK_WAIT_S = 12000, 0.01
MOUNT_ATTEMPTS = 50
MKFS_EXT4 = "-O ^has_journal,sparse_super,flex_bg -G 1 -E discard -F"


class AttachError(Exception):
    """A device could not be had; the text is what the snapshotter says."""


class Devices:
    """The devices of a tree of snapshots. `tenant` keeps those of several snapshotters apart."""

    def __init__(self, tree: Tree, tenant: int = -1) -> None:
        self.tree = tree
        self._hba = TENANT if tenant < 0 else tenant
        self._prefix = 199 if tenant < 0 else tenant % 100 + 100

    def target(self, number: int) -> Path:
        """The backstore of a snapshot."""
        return TARGET / f"core/user_{self._hba}/dev_{number}"

    def loopback(self, number: int) -> Path:
        """The target of this machine for it."""
        return TARGET / f"loopback/naa.{self._prefix}{number:013}"

    def attach(self, number: int, *, with_id: bool = False) -> str:
        """Makes the device of a snapshot; its path. After a failure nothing is left."""
        try:
            self._enable(number, with_id)
            return self._link(number)
        except BaseException:
            self.detach(number)
            raise

    def _enable(self, number: int, with_id: bool) -> None:
        target = self.target(number)
        target.mkdir(parents=True)
        config = f"overlaybd/{self.tree.at(number, 'block/config.v1.json')}"
        (target / "control").write_text(f"dev_config={config}" + (f";{number}" if with_id else ""))
        (target / "control").write_text("max_data_area_mb=4")
        for attempt in range(1, ENABLE_ATTEMPTS + 1):
            try:
                (target / "enable").write_text("1")
                break
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    said = os.strerror(error.errno or 0).lower()
                    raise AttachError(f"failed to write enable for {target}: {said}") from error
                if attempt == ENABLE_ATTEMPTS:
                    what = f"failed to enable target for {target}, {self.tree.result(number)}"
                    raise AttachError(what) from error
                time.sleep(ENABLE_WAIT_S)
        (target / "attrib/cmd_time_out").write_text(LONG_S)

    def _link(self, number: int) -> str:
        group = self.loopback(number) / "tpgt_1"
        (group / "lun/lun_0").mkdir(parents=True)
        (group / "nexus").write_text(self.loopback(number).name)
        (group / f"lun/lun_0/dev_{number}").symlink_to(self.target(number))
        address = (group / "address").read_text().strip()
        for _ in range(LOOK_ATTEMPTS):
            with suppress(FileNotFoundError):
                for entry in Path(f"/sys/class/scsi_device/{address}:0/device/block").iterdir():
                    (Path("/sys/block") / entry.name / "device/timeout").write_text(LONG_S)
                    (self.tree.at(number, "block/backstore_mark")).write_text(f"/dev/{entry.name}")
                    return f"/dev/{entry.name}"
            time.sleep(LOOK_WAIT_S)
        raise AttachError(f"no disk at {address}")

    def detach(self, number: int) -> None:
        """Takes away what there is of the device of a snapshot."""
        luns = self.loopback(number) / "tpgt_1/lun/lun_0"
        with suppress(FileNotFoundError):
            (luns / f"dev_{number}").unlink()
        group = self.loopback(number) / "tpgt_1"
        for path in (luns, group, self.loopback(number), self.target(number)):
            with suppress(FileNotFoundError):
                path.rmdir()

    def mkfs(self, device: str) -> None:
        """Makes the file system of a layer from nothing."""
        tool("mkfs", "-t", "ext4", *MKFS_EXT4.split(), device)

    def mount(self, number: int, device: str, *, writable: bool) -> Path:
        """Mounts a device where overlays and containers find it."""
        point = self.tree.at(number, "block/mountpoint")
        options = "discard" if writable else "ro,discard"
        for attempt in range(1, MOUNT_ATTEMPTS + 1):
            done = subprocess.run(
                ["mount", "-t", "ext4", "-o", options, device, point], capture_output=True, check=False
            )
            if done.returncode == 0:
                return point
            assert attempt < MOUNT_ATTEMPTS, done.stderr
            time.sleep(LOOK_WAIT_S)
        raise AssertionError

    def provide(self, number: int, *, writable: bool = False, mkfs: bool = False) -> Path:
        """What Prepare and Mounts do: the device, and what is in it."""
        device = self.attach(number)
        if mkfs:
            self.mkfs(device)
        return self.mount(number, device, writable=writable)

    def release(self, number: int) -> None:
        """What Remove and Commit do: all mounts of the device, and the device."""
        tool("umount", self.tree.at(number, "block/mountpoint"))
        self.detach(number)
        self.tree.at(number, "block/backstore_mark").unlink()
