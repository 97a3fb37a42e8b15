"""An image by NBD to the kernel of this machine: `/dev/nbdN`."""

import errno
import glob
import mmap
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import obdcore
from obd.attach.nbd_link import SECTOR_BYTES, NbdLink, backend_of
from obd.attach.users import PATIENCE_S, claim
from obd.attach.ways import OnError, Way, load_module, write_back
from obd.errors import ObdError
from obd.state import State, StateDirectory

# So long users wait for a new keeper when theirs has died; after that they get errors.
RECONNECT_S: Final = 300

# How often the kernel looks whether a request that has no answer went out on a connection that is dead by
# now.
RESEND_MS: Final = 2000

# The kernel notices the end of a connection, and makes a node, a moment after the fact.
MOMENT_S: Final = 5.0
LOOK_S: Final = 0.01


class NbdWay(Way):
    """By the kernel's NBD client and a unix socket."""

    def __init__(self) -> None:
        self._serves = False

    def missing(self, service: str | None = None) -> str:
        """What the kernel's NBD lacks here."""
        load_module("nbd")
        try:
            NbdLink().close()
        except FileNotFoundError:
            return "the kernel has no NBD, or not in this network namespace (modprobe nbd)"
        except OSError as error:
            return f"the kernel's NBD cannot be asked: {error.strerror}"
        if os.geteuid() != 0:
            return "NBD devices need root"
        if not glob.glob("/dev/nbd*"):
            return "no /dev/nbd0 (a container must be given it)"
        return ""

    def is_ours(self, place: StateDirectory, path: str) -> bool:
        """Told by what it was connected as."""
        return backend_of(path) == place.path

    def find(self, place: StateDirectory) -> str:
        """Told by what it was connected as."""
        paths = (f"/dev/{name.split('/')[3]}" for name in glob.glob("/sys/block/nbd*/backend"))
        return next((path for path in paths if self.is_ours(place, path)), "")

    def take_away(self, place: StateDirectory, path: str, *, patience_s: float = PATIENCE_S) -> None:
        """Disconnects the device, unless it is in use; what was written to it and not flushed is, before."""
        fd = claim(path, patience_s=patience_s)
        try:
            if self.is_ours(place, path):
                try:
                    if self._serves:  # else nobody would answer
                        write_back(fd, path)
                finally:
                    with NbdLink() as link:
                        link.disconnect(path)
        finally:
            os.close(fd)

    def can_be_served_again(self, known: State) -> bool:
        """True: users wait for it."""
        return True

    def serve(
        self, image: obdcore.Image, place: StateDirectory, *, read_only: bool, on_error: OnError, again: bool
    ) -> "ServedNbd":
        """Serves at a unix socket, to which the kernel connects."""
        served = ServedNbd(image, place, read_only, on_error, self.find(place) if again else "")
        self._serves = True
        return served


class ServedNbd:
    """An image behind an NBD device of this kernel."""

    def __init__(
        self, image: obdcore.Image, place: StateDirectory, read_only: bool, on_error: OnError, path: str
    ) -> None:
        """`path` is a device whose server died, "" for a new one."""
        socket = os.path.join(place.path, "socket")
        self._image, self._backend = image, place.path
        self._server = obdcore.NbdServer({"": image}, f"unix:{socket}", on_error=on_error)
        try:
            with NbdLink() as link:
                if path:
                    self.path = path
                    _reconnect(link, path, socket, place.path)
                else:
                    self.path = link.connect(socket, place.path, read_only=read_only, patience_s=RECONNECT_S)
                try:
                    _try(self.path)
                except BaseException:
                    if not path:
                        link.disconnect(self.path)
                    raise
        except BaseException:
            self._server.stop()
            raise

    def grown(self) -> None:
        """The image has grown, and the device with it."""
        with NbdLink() as link:
            link.resize(self.path, self._backend, self._image.size)

    def let_go(self) -> None:
        """Nothing is held here that keeps others from the device."""

    def undo(self) -> None:
        """Takes the device back at once, whoever uses it."""
        with NbdLink() as link:
            link.disconnect(self.path)
        self.stop()

    def stop(self) -> None:
        """Ends the server."""
        self._server.stop()


def _reconnect(link: NbdLink, path: str, socket: str, backend: str) -> None:
    """Reconnects as soon as the kernel has noticed that the old connection is dead."""
    deadline = time.monotonic() + MOMENT_S
    while True:
        try:
            return link.reconnect(path, socket, backend)
        except OSError as error:
            if error.errno != errno.ENOSPC or time.monotonic() > deadline:
                raise
        time.sleep(LOOK_S)


def _try(path: str) -> None:
    """Reads from the device: whoever waits for it is told that it works, not that it should."""
    queue = Path("/sys/block", os.path.basename(path), "queue")
    with suppress(OSError):
        (queue / "io_timeout").write_text(str(RESEND_MS))
    deadline = time.monotonic() + MOMENT_S
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise ObdError("not-found", "the kernel has the device, but there is no node of it here", path)
        time.sleep(LOOK_S)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, SECTOR_BYTES) as sector:  # aligned, as direct I/O wants it
            os.preadv(fd, [sector], 0)
    finally:
        os.close(fd)
