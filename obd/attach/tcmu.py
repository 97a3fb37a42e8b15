"""An image as a SCSI disk of this machine, `/dev/sdX`, served by the daemon `overlaybd-tcmu`."""

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

import tcmu
from obd.attach.names import name_of
from obd.attach.users import PATIENCE_S, claim
from obd.attach.ways import Way, load_module, write_back
from obd.config import DEFAULT_SERVICE_FILE, load_image
from obd.daemon.lock import running
from obd.errors import ObdError
from obd.state import StateDirectory

# The directory of all our backstores: `core/user_7299684`. In ASCII these are the letters obd.
HBA: Final = 0x6F6264

# As the snapshotter sets them up: a request waits for a daemon that is started again, and the ring's data
# area is small enough for hundreds of devices.
TIMEOUT_S: Final = 2147483
DATA_AREA_MIB: Final = 4

_LONGEST_CONFIG_BYTES: Final = 255
_CONFIGFS: Final = Path("/sys/kernel/config/target")
_BLKROSET: Final = 0x125D


class TcmuWay(Way):
    """By the kernel's SCSI target, TCMU. Without a daemon that answers, whoever asks for a disk hangs."""

    kept = False

    def missing(self, service: str | None = None) -> str:
        """What TCMU lacks here; most often its daemon."""
        if os.geteuid() != 0:
            return "SCSI targets need root"
        daemon = running()
        if not daemon:
            return "overlaybd-tcmu does not run (systemctl start overlaybd-tcmu)"
        if service not in (None, DEFAULT_SERVICE_FILE) and daemon != os.getpid():
            return "overlaybd-tcmu has a service configuration of its own"
        if not _CONFIGFS.is_dir():
            return f"no {_CONFIGFS} (mount -t configfs configfs /sys/kernel/config)"
        for module in ("tcm_loop", "sd_mod"):
            if not load_module(module):
                return f"the kernel lacks what makes a disk of it (modprobe {module})"
        return ""

    def is_ours(self, place: StateDirectory, path: str) -> bool:
        """Told by the backstore behind it."""
        return self.find(place) == path

    def find(self, place: StateDirectory) -> str:
        """Told by the backstore's name."""
        return str(tcmu.disk_of(_backstore(place)) or "")  # without opening it, which may hang

    def is_served(self) -> bool:
        """True while the daemon runs."""
        return bool(running())

    def attach(self, place: StateDirectory, *, read_only: bool) -> str:
        """Makes backstore and disk. Raises `ObdError`; then nothing is left."""
        config = load_image(place.key)
        if not read_only and not config.writable:
            what = "the image has no upper to write to (make one with overlaybd-create)"
            raise ObdError("read-only", what, place.key)
        backstore = _backstore(place)
        try:
            backstore.create(
                _dev_config(place),
                data_area_mib=DATA_AREA_MIB,
                attributes={"cmd_time_out": TIMEOUT_S},
            )
        except OSError as error:
            what = f"overlaybd-tcmu refuses it ({error.strerror}); its log says why"
            raise ObdError("io", _why(config.result_file) or what, place.key) from error
        try:
            disk = tcmu.Loopback.of(backstore).create(backstore, TIMEOUT_S)
            if read_only:
                _set_read_only(disk)
        except OSError as error:
            self.clear(place)
            raise ObdError("io", f"no disk: {error}", place.key) from error
        return str(disk)

    def take_away(self, place: StateDirectory, path: str, *, patience_s: float = PATIENCE_S) -> None:
        """Removes disk and backstore, unless the disk is in use; then the image is closed."""
        _need_daemon(place)
        fd = claim(path, patience_s=patience_s)
        try:
            try:
                write_back(fd, path)
            finally:
                self.clear(place)
        finally:
            os.close(fd)

    def clear(self, place: StateDirectory) -> None:
        """Removes what there is of disk and backstore."""
        backstore = _backstore(place)
        if not backstore.directory.exists():
            return
        _need_daemon(place)
        tcmu.Loopback.of(backstore).remove()
        backstore.remove()


def _need_daemon(place: StateDirectory) -> None:
    """Refuses what would hang without a daemon. Raises `ObdError`."""
    if not running():
        what = "overlaybd-tcmu has to let go of it and does not run (systemctl start overlaybd-tcmu)"
        raise ObdError("io", what, place.key)


def _backstore(place: StateDirectory) -> tcmu.Backstore:
    return tcmu.Backstore(HBA, name_of(place))


def _dev_config(place: StateDirectory) -> str:
    """What the daemon is told: the configuration's path, or a link to it if the kernel would cut that."""
    config = f"overlaybd/{place.key}"
    if len(os.fsencode(config)) <= _LONGEST_CONFIG_BYTES and not set(config) & set(",;\n"):
        return config
    link = os.path.join(place.path, "image.json")
    with suppress(FileNotFoundError):
        os.unlink(link)
    os.symlink(place.key, link)
    return f"overlaybd/{link}"


def _why(result_file: str) -> str:
    """What the daemon says of the failure in the image's result file, if it has one."""
    said = ""
    with suppress(OSError), open(result_file, errors="replace") as file:
        said = " ".join(file.read(4096).split())
    return said.removeprefix("failed:") if said.startswith("failed:") else ""


def _set_read_only(disk: Path) -> None:
    fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKROSET, struct.pack("i", 1))
    finally:
        os.close(fd)
