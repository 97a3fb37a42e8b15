"""Ways to a backstore: a disk of this machine (tcm_loop), and a target for others (iSCSI)."""

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tcmu.configfs import TARGET, Backstore, rmdir, write

SCSI = Path("/sys/class/scsi_device")

# The kernel looks for the disk and makes its node behind our back.
APPEAR_S = 10.0
LOOK_S = 0.001


@dataclass(frozen=True)
class Loopback:
    """A disk of this machine with one LUN. `name` is `naa.` and 16 hexadecimal digits."""

    name: str

    @classmethod
    def of(cls, backstore: Backstore) -> "Loopback":
        """The one whose name is the backstore's own."""
        digits = hashlib.sha256(
            f"{backstore.hba}/{backstore.name}".encode(errors="surrogateescape")
        ).hexdigest()
        return cls(f"naa.5001405{digits[:9]}")

    @property
    def directory(self) -> Path:
        """Its directory, whether it is there or not."""
        return TARGET / "loopback" / self.name

    def create(self, backstore: Backstore, timeout_s: int | None = None) -> Path:
        """Makes the disk; its node, such as `/dev/sda`. `timeout_s` is how long a command may take.

        Errors: `OSError`, after which nothing is left; `TimeoutError` if no disk appears.
        """
        group = self.directory / "tpgt_1"
        self.directory.parent.mkdir(exist_ok=True)
        self.directory.mkdir()
        try:
            (group / "lun" / "lun_0").mkdir(parents=True)
            write(group / "nexus", self.name)
            (group / "lun" / "lun_0" / "backstore").symlink_to(backstore.directory)
            disk = self._appearing()
            if timeout_s is not None:
                write(self._scsi() / "timeout", str(timeout_s))
        except BaseException:
            with suppress(OSError):
                self.remove()
            raise
        return disk

    def disk(self) -> Path | None:
        """The node of the disk, unless there is none that can be opened (yet)."""
        with suppress(OSError):
            for entry in (self._scsi() / "block").iterdir():
                node = Path("/dev") / entry.name
                # The node is there a moment before there is something behind it.
                os.close(os.open(node, os.O_RDONLY | os.O_CLOEXEC))
                return node
        return None

    def _scsi(self) -> Path:
        """What the kernel says of the disk as a SCSI device."""
        address = (self.directory / "tpgt_1" / "address").read_text().strip()
        return SCSI / f"{address}:0" / "device"

    def remove(self) -> None:
        """Removes the disk, or what there is of it. Whoever uses it gets errors from then on."""
        group = self.directory / "tpgt_1"
        remove_luns(group / "lun")
        rmdir(group)
        rmdir(self.directory)

    def _appearing(self) -> Path:
        deadline = time.monotonic() + APPEAR_S
        while not (disk := self.disk()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: no disk has appeared in {APPEAR_S:g} s")
            time.sleep(LOOK_S)
        return disk


@dataclass(frozen=True)
class IscsiTarget:
    """A target for initiators anywhere, with one portal (`ADDRESS:PORT`), and a LUN for each backstore."""

    name: str
    portal: str

    @property
    def directory(self) -> Path:
        """Its directory, whether it is there or not."""
        return TARGET / "iscsi" / self.name

    def create(self, *backstores: Backstore) -> None:
        """Makes the target. Whoever reaches the portal may use it: access is to be limited by other means.

        Errors: `OSError`, after which nothing is left.
        """
        group = self.directory / "tpgt_1"
        self.directory.parent.mkdir(exist_ok=True)
        self.directory.mkdir()
        try:
            group.mkdir()
            for number, backstore in enumerate(backstores):
                lun = group / "lun" / f"lun_{number}"
                lun.mkdir()
                (lun / "backstore").symlink_to(backstore.directory)
            (group / "np" / self.portal).mkdir()
            for attribute, value in (
                ("authentication", "0"),
                ("generate_node_acls", "1"),
                ("demo_mode_write_protect", "0"),
            ):
                write(group / "attrib" / attribute, value)
            write(group / "enable", "1")
        except BaseException:
            with suppress(OSError):
                self.remove()
            raise

    def remove(self) -> None:
        """Removes the target, if it is there, or what there is of it; sessions end."""
        group = self.directory / "tpgt_1"
        with suppress(OSError):
            write(group / "enable", "0")
        rmdir(group / "np" / self.portal)
        remove_luns(group / "lun")
        rmdir(group)
        rmdir(self.directory)


def disk_of(backstore: Backstore) -> Path | None:
    """The node of the disk of this machine that a backstore has become, by whomever; None if it is none."""
    with suppress(OSError):
        for line in backstore.read("alua/default_tg_pt_gp", "members").splitlines():
            fabric, name, group, lun = line.split("/")
            if fabric != "loopback":
                continue
            address = (TARGET / fabric / name / group / "address").read_text().strip()
            for entry in (SCSI / f"{address}:{lun.removeprefix('lun_')}" / "device" / "block").iterdir():
                return Path("/dev") / entry.name
    return None


def remove_luns(directory: Path) -> None:
    """Removes all LUNs below a directory, if it is there."""
    for lun in directory.glob("lun_*"):
        for entry in lun.iterdir():
            if entry.is_symlink():
                entry.unlink()
        rmdir(lun)
