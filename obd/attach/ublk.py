"""An image as a disk of the kernel's ublk driver: `/dev/ublkbN`, which outlives the process behind it."""

import os
from typing import Any, Final

import obdcore
from obd.attach.users import PATIENCE_S, claim
from obd.attach.ways import OnError, Way, load_module, write_back
from obd.errors import ObdError
from obd.state import State, StateDirectory

PREFIX: Final = "/dev/ublkb"


def number_of(path: str) -> int:
    """The N of `/dev/ublkbN`. Raises `ObdError` for any other path."""
    digits = path.removeprefix(PREFIX)
    if path == digits or not (digits.isascii() and digits.isdigit()):
        raise ObdError("invalid", "not a ublk disk", path)
    return int(digits)


def info_of(path: str) -> dict[str, Any] | None:
    """What the kernel knows of the device of a disk; None if there is none."""
    try:
        return obdcore.ublk_info(number_of(path))
    except obdcore.Error as error:
        if error.kind != "not-found":
            raise
        return None


def is_alive(pid: int) -> bool:
    """True if there is such a process."""
    return pid > 0 and os.path.exists(f"/proc/{pid}")


class UblkWay(Way):
    """By the kernel's ublk driver. The settings are those of `obdcore.UblkDevice`."""

    outlives = True

    def __init__(self, number: int = -1, queues: int = 0, depth: int = 0) -> None:
        self._number = number
        self._queues = queues
        self._depth = depth
        self._served: ServedDisk | None = None

    def missing(self, service: str | None = None) -> str:
        """What the kernel's ublk driver lacks here."""
        load_module("ublk_drv")
        try:
            obdcore.ublk_features()
        except obdcore.Error as error:
            if os.geteuid() != 0:
                return "ublk needs root"
            return f"{error.what}: {error.cause}" if error.cause else error.what
        return ""

    def is_ours(self, place: StateDirectory, path: str) -> bool:
        """Told by the process that serves it: the recorded one, or one that is dead."""
        if self._served is not None:
            return self._served.is_served()
        info, known = info_of(path), place.read()
        if info is None or info["state"] == "dead" or known is None or known.path != path:
            return False
        return info["pid"] == known.pid or not is_alive(info["pid"])

    def find(self, place: StateDirectory) -> str:
        """Told by the state."""
        known = place.read()
        return known.path if known and known.path and self.is_ours(place, known.path) else ""

    def take_away(self, place: StateDirectory, path: str, *, patience_s: float = PATIENCE_S) -> None:
        """Stops the disk, unless it is in use; what was written to it and not flushed is, before."""
        known = place.read()
        fd = claim(path, besides=known.pid if known else 0, patience_s=patience_s)
        try:
            info = info_of(path)
            if info is None or not self.is_ours(place, path):
                return
            try:
                # Without a server nobody would answer; nor was anything acknowledged that is not written yet.
                if info["state"] == "live":
                    write_back(fd, path)
            finally:
                obdcore.ublk_stop(number_of(path))
        finally:
            os.close(fd)
        if self._served is None:
            obdcore.ublk_delete(number_of(path))

    def clear(self, place: StateDirectory) -> None:
        """Removes a device whose disk was stopped."""
        known = place.read()
        info = info_of(known.path) if known and known.path else None
        if info is not None and info["state"] == "dead" and info["pid"] < 0:
            obdcore.ublk_delete(info["number"])

    def can_be_served_again(self, known: State) -> bool:
        """True: users wait for it."""
        return True

    def serve(
        self, image: obdcore.Image, place: StateDirectory, *, read_only: bool, on_error: OnError, again: bool
    ) -> "ServedDisk":
        """Makes a disk, or serves the one that a dead keeper left."""
        known = place.read()
        number = number_of(known.path) if again and known else self._number
        device = obdcore.UblkDevice(
            image,
            number=number,
            queues=self._queues,
            depth=self._depth,
            read_only=read_only,
            recover=again,
            on_error=on_error,
        )
        self._served = ServedDisk(device)
        return self._served


class ServedDisk:
    """An image behind a ublk disk of this kernel."""

    def __init__(self, device: obdcore.UblkDevice) -> None:
        self._device = device
        self.path: Final = device.path

    def is_served(self) -> bool:
        """True if its queues are; they end when the disk is stopped."""
        return self._device.stats()["serving"] > 0

    def grown(self) -> None:
        """The image has grown, and the disk with it where the kernel lets it (Linux 6.16)."""
        self._device.update_size()

    def let_go(self) -> None:
        """Nothing is held here that keeps others from the device."""

    def undo(self) -> None:
        """Takes the device back at once, whoever uses it."""
        self._device.remove()

    def stop(self) -> None:
        """Removes the device, whose disk was stopped. One that was not stays for another server."""
        info = info_of(self.path)
        if info is None or info["state"] == "dead":
            try:
                self._device.remove()
            except obdcore.Error as error:
                if error.kind != "not-found":  # somebody else has done so
                    raise
            return
        self._device.stop()
        raise ObdError("io", "is not served any more, and waits for `overlaybd-ublk recover`", self.path)
