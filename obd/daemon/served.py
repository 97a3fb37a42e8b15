"""One device of the kernel while it is ours: its image is opened, served on its ring, and closed."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import obdcore
import tcmu
from obd.config import ConfigError, load_image
from obd.daemon.limits import WORKERS
from obd.daemon.target import Ids, Target
from obd.errors import ObdError, line_of
from obd.image import Device, open_device
from obd.result import ResultFile

if TYPE_CHECKING:
    from obd.overview import Overview
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.tcmu")


class Identity(NamedTuple):
    """What the kernel's side says of a disk."""

    serial: str
    block_bytes: int


class Served:
    """A device. What opens and closes it must do so one after the other; all else is for any thread."""

    def __init__(self, device: tcmu.Device, service: Service, overview: Overview, ids: Ids) -> None:
        self.device: Final = device
        self.name: Final = str(device.backstore)
        self.image: Device | None = None
        self.ring: obdcore.TcmuDevice | None = None
        self.result_file = ""
        self._service: Final = service
        self._overview: Final = overview
        self._ids: Final = ids
        self._unwanted = False
        self.failure = ""
        """Why it could not be taken over, "" once it is."""
        self._lock: Final = threading.Lock()

    def open(self) -> None:
        """Opens the image and serves it. The outcome is in its result file too. `OSError`."""
        target = Target.of(self.device)
        # Now, not later: configfs makes wait whoever looks at a device that is being removed.
        backstore = self.device.backstore
        identity = Identity(tcmu.serial(backstore), backstore.block_bytes())
        try:
            config = load_image(target.path)
        except ConfigError as error:
            ResultFile(error.result_file).failed(str(error))
            raise
        self.result_file = config.result_file
        try:
            self._ids.take(target.dev_id, self)
        except ObdError as error:
            self.failed(error.what)
            raise
        try:
            image = open_device(config, self._service)
            try:
                self._attach(image, identity)
            except BaseException as error:
                self.failed(line_of(error))
                image.close()
                raise
        except BaseException:
            self._ids.free(self)
            raise
        self._overview.add(self.name, image, lambda: address_of(self.device), target.dev_id)

    def failed(self, why: str) -> None:
        """Puts a failure that is not the image's into the result file."""
        ResultFile(self.result_file).failed(why)

    def _attach(self, image: Device, identity: Identity) -> None:
        # While the lock is held nobody tells the kernel that the device may go, so that the node is its own.
        with self._lock:
            if self._unwanted:
                raise ObdError("interrupted", "nobody wants the device any more")
            self.ring = obdcore.TcmuDevice(
                image.native,
                self.device.path,
                serial=identity.serial,
                name=self.device.config,
                block_bytes=identity.block_bytes,
                workers=WORKERS,
                on_error=self._report,
            )
            self.image = image
            image.on_grown = self._grown

    def _report(self, name: str, error: obdcore.Error) -> None:
        _log.error("%s (%s): %s", self.name, name, line_of(error))

    def abandon(self) -> None:
        """From now on opening the device fails, if it has not been done."""
        with self._lock:
            self._unwanted = True

    def close(self, drain_s: float = 0.0) -> bool:
        """Lets go of ring and image. Whether all was made durable; a failure is in the log.

        Requests that are under way may go on for up to `drain_s`; what is left the kernel keeps in the ring.
        """
        ring, image = self.ring, self.image
        if ring is None or image is None:
            return True
        self._overview.remove(self.name)
        good = _step(self.name, "ending its requests", lambda: ring.cease(drain_s))
        # What waits for a registry is left in the ring, and not an error.
        image.endure(0)
        good &= _step(self.name, "ending its requests", ring.stop)
        self.ring = None
        good &= _step(self.name, "flushing and closing its image", image.close)
        self.image = None
        self._ids.free(self)
        return good

    def _grown(self) -> None:
        """The image has grown: its disk on this machine, if it is one, is looked at anew by the kernel."""
        disk = tcmu.disk_of(self.device.backstore)
        if disk is None:
            return
        rescan = f"/sys/block/{disk.name}/device/rescan"
        try:
            with open(rescan, "w") as file:
                file.write("1")
        except OSError as error:
            what = "%s has grown, and %s does not know yet (write 1 to %s): %s"
            _log.warning(what, self.name, disk, rescan, line_of(error))

    def resize(self, size_bytes: int) -> int:
        """Makes the device larger while it is used; 0, or the errno for whoever asked."""
        image = self.image
        if image is None:
            return errno.ENODEV
        if size_bytes == image.size:
            return 0
        image.resize(size_bytes)
        return 0

    def is_news(self, failure: str) -> bool:
        """Whether a failure is another than the last one: it is told of once, however often it happens."""
        news, self.failure = failure != self.failure, failure
        return news

    @property
    def active(self) -> int:
        """Requests that are under way."""
        ring = self.ring
        return ring.stats()["active"] if ring is not None else 0

    def waits_for(self) -> str:
        """What the device has been at for longest, in words."""
        ring = self.ring
        age_s, what = (ring.oldest() if ring is not None else None) or (0.0, f"{self.active} requests")
        return f"{what} for {age_s:.0f} s" if age_s >= 1 else what

    @property
    def serving(self) -> bool:
        """Whether requests are being taken."""
        ring = self.ring
        return ring is not None and ring.stats()["serving"] == 1


def _step(name: str, what: str, act: Callable[[], object]) -> bool:
    try:
        act()
    except Exception as error:
        _log.error("%s: %s: %s", name, what, line_of(error))
        return False
    return True


def address_of(device: tcmu.Device) -> str:
    """Where the device can be used: `/dev/sdX` if it is a disk of this machine, else its backstore."""
    disk = tcmu.disk_of(device.backstore)
    return str(disk or device.backstore.directory)
