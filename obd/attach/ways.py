"""What all ways to a block device have in common, and which there are."""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from obd.attach.users import PATIENCE_S
from obd.errors import ObdError
from obd.state import State, StateDirectory

if TYPE_CHECKING:
    import obdcore

OnError = Callable[[str, "obdcore.Error"], None]


def certainly(true: Callable[[], bool]) -> bool:
    """Whether something is true. What cannot be seen, since no more files may be opened say, is not."""
    try:
        return true()
    except OSError:
        return False


def write_back(fd: int, path: str) -> None:
    """Makes durable what was written to the device `path`, which `fd` is open on.

    Raises `ObdError` of kind "io" if that fails; the kernel tells of each failure once, so asking again is
    no use.
    """
    try:
        os.fsync(fd)  # BLKFLSBUF would say nothing of a failure
    except OSError as error:
        what = f"what was written to it could not be made durable: {error.strerror}"
        raise ObdError("io", what, path) from error


class Served(Protocol):
    """An image that this process serves as the block device `path`."""

    @property
    def path(self) -> str:
        """The device."""

    def grown(self) -> None:
        """The image has grown: the device does too, if the kernel lets it. Raises `OSError` if not."""

    def let_go(self) -> None:
        """Closes what was held open while the device was being set up."""

    def undo(self) -> None:
        """Takes the device back at once, whoever uses it."""

    def stop(self) -> None:
        """Ends serving; the device has been taken away."""


class Way(ABC):
    """A way to make a block device of an image.

    `kept`: a process of ours serves it, which calls `serve`. `outlives`: if that dies, the device waits for
    another one, whether somebody uses it or not; else it is removed when nobody does.
    """

    kept = True
    outlives = False

    @abstractmethod
    def missing(self, service: str | None = None) -> str:
        """Why there can be no device by this way here, and what to do about it; "" if there can.

        `service` is the path of the service configuration that is asked for, None for the host's.
        """

    @abstractmethod
    def is_ours(self, place: StateDirectory, path: str) -> bool:
        """True if the kernel has the device `path`, and it is that of `place`."""

    @abstractmethod
    def find(self, place: StateDirectory) -> str:
        """The device of `place` that the kernel has, "" if there is none."""

    @abstractmethod
    def take_away(self, place: StateDirectory, path: str, *, patience_s: float = PATIENCE_S) -> None:
        """Takes the device from the kernel. Raises `ObdError`, "busy" if it is in use; then it stays.

        Raises that of `write_back` when it has taken it away: what is lost does not come back if it stays.
        `patience_s`: how long it may be open for a look only.
        """

    def clear(self, place: StateDirectory) -> None:
        """Removes what else may be left when nothing is served and the device is gone."""
        return

    def can_be_served_again(self, known: State) -> bool:
        """True if a new process can serve a device whose keeper died, under its users."""
        return False

    def is_served(self) -> bool:
        """True if whoever serves a device that we do not keep is there."""
        return True

    def attach(self, place: StateDirectory, *, read_only: bool) -> str:
        """Has another serve the image; the device. For ways that are not `kept`. Raises `ObdError`."""
        raise NotImplementedError

    def serve(
        self,
        image: "obdcore.Image",
        place: StateDirectory,
        *,
        read_only: bool,
        on_error: OnError,
        again: bool,
    ) -> Served:
        """Serves an image; with `again` as the device that a keeper which died has left."""
        raise NotImplementedError


def way(name: str, **settings: int) -> Way:
    """The way of that name, with settings that it alone knows."""
    if name == "tcmu":
        from obd.attach.tcmu import TcmuWay

        return TcmuWay()
    if name == "ublk":
        from obd.attach.ublk import UblkWay

        return UblkWay(**settings)
    if name == "fuse":
        from obd.attach.fuse import FuseWay

        return FuseWay()
    from obd.attach.nbd import NbdWay

    return NbdWay()


def load_module(name: str) -> bool:
    """Has the kernel load a module. False if it is not known to be there: it may still be built in."""
    if Path("/sys/module", name).exists():
        return True
    program = shutil.which("modprobe", path="/sbin:/usr/sbin")
    if program is None:
        return False
    done = subprocess.run([program, "-q", name], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0
