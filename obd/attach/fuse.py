"""An image as a file by FUSE, and that file as a loop device: works without any special kernel module."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import obdcore
from obd.attach import loop
from obd.attach.users import PATIENCE_S, claim
from obd.attach.ways import OnError, Way, certainly, load_module, write_back
from obd.errors import ObdError
from obd.mount.filesystem import is_mount_point, unmount_lazily
from obd.state import State, StateDirectory

# Name of the one file in the FUSE directory.
FILE_NAME: Final = "disk"

# How long a loop device that is detached may hold on to its file.
CLOSE_TIMEOUT_S: Final = 10.0


class FuseWay(Way):
    """By FUSE and a loop device. `transient` as for `loop.attach`.

    `connection` is a descriptor of /dev/fuse to mount by, -1 for a new one; with `resume` that of a server
    that died, by which its mount is served on.
    """

    def __init__(self, *, transient: bool = False, connection: int = -1, resume: bool = False) -> None:
        self._transient = transient
        self._connection = connection
        self._resume = resume
        self._serves = False

    def missing(self, service: str | None = None) -> str:
        """What FUSE or loop devices lack here."""
        if os.geteuid() != 0:
            return "loop devices need root"
        for module, node in (("fuse", "/dev/fuse"), ("loop", "/dev/loop-control")):
            load_module(module)
            if not os.path.exists(node):
                return f"no {node} (modprobe {module}; a container must be given it)"
        return ""

    def is_ours(self, place: StateDirectory, path: str) -> bool:
        """Told by the file behind it."""
        return loop.backing_file(path) in files_of(place)

    def find(self, place: StateDirectory) -> str:
        """Told by the file behind it."""
        return next(filter(None, map(loop.find, files_of(place))), "")

    def take_away(self, place: StateDirectory, path: str, *, patience_s: float = PATIENCE_S) -> None:
        """Detaches the loop device, unless it is in use."""
        fd = claim(path, patience_s=patience_s)
        try:
            if self.is_ours(place, path):
                try:
                    if self._serves:  # else nobody would answer
                        write_back(fd, path)
                finally:
                    loop.detach(fd)
        finally:
            os.close(fd)
        wait_until(lambda: not self.is_ours(place, path), path, CLOSE_TIMEOUT_S)

    def clear(self, place: StateDirectory) -> None:
        """Unmounts a FUSE directory that nobody serves."""
        for file in files_of(place):
            _clear(os.path.dirname(file))

    def can_be_served_again(self, known: State) -> bool:
        """True if it is read-only: only such loop devices may change their file."""
        return known.read_only

    def serve(
        self, image: obdcore.Image, place: StateDirectory, *, read_only: bool, on_error: OnError, again: bool
    ) -> "ServedFile":
        """Mounts FUSE, and puts the file into a loop device; or does neither, but goes on serving both."""
        file, other = files_of(place)
        path = self.find(place) if again or self._resume else ""
        if self._resume:
            if not path:
                raise ObdError("not-found", "the loop device is gone", place.key)
            file = loop.backing_file(path) or file
        elif path:
            if loop.backing_file(path) == file:
                file, other = other, file
            _clear(os.path.dirname(file))
        if not self._resume:
            os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
        fuse = obdcore.FuseMount(
            {FILE_NAME: image},
            os.path.dirname(file),
            connection=self._connection,
            resume=self._resume,
            on_error=on_error,
        )
        try:
            if path and not self._resume:
                loop.change(path, file)
            device = (
                loop.opened(path)
                if path
                else loop.attach(file, read_only=read_only, transient=self._transient)
            )
        except BaseException:
            if not self._resume:  # else it waits for another attempt
                fuse.stop(force=True)
            raise
        if path and not self._resume:
            _clear(os.path.dirname(other))
        self._serves = True
        return ServedFile(file, fuse, device, self._transient)


class ServedFile:
    """An image behind a loop device, which is open until `let_go`."""

    def __init__(self, file: str, fuse: obdcore.FuseMount, device: loop.Loop, transient: bool) -> None:
        """`fuse` shows the image as `file`, which is behind `device`."""
        self._file: Final = file
        self._fuse: Final = fuse
        self._loop: Final = device
        self.path: Final = device.path
        self.number: Final = device.number
        self._transient: Final = transient
        self._open = True

    def grown(self) -> None:
        """The image has grown; the device does once the kernel has asked for the file's size again."""
        self._fuse.grown()
        loop.grow(self.path)

    def let_go(self) -> None:
        """Closes our descriptor of the loop device."""
        if self._open:
            self._open = False
            os.close(self._loop.fd)

    @property
    def attached(self) -> bool:
        """True while the loop device shows the image."""
        return loop.backing_file(self.path) == self._file

    def wait_until_detached(self) -> None:
        """Returns when the loop device has no user any more and is detached."""
        wait_until(lambda: not self.attached, self.path)

    def undo(self) -> None:
        """Takes the device back at once, whoever uses it."""
        if self._open and not self._transient:
            loop.detach(self._loop.fd)
        self.let_go()
        with suppress(ObdError):
            wait_until(lambda: not self.attached, self.path, CLOSE_TIMEOUT_S)
        self._fuse.stop(force=True)

    def stop(self) -> None:
        """Unmounts FUSE: at once, since with the loop device the last request of a user is gone.

        Else a copy of the mount in another namespace, made by a container say, would keep it up.
        """
        self._fuse.stop(force=True)


def files_of(place: StateDirectory) -> tuple[str, str]:
    """The file that FUSE shows, and where it is if that place is taken by one whose server died."""
    directory = os.path.realpath(place.path)
    return os.path.join(directory, "fuse", FILE_NAME), os.path.join(directory, "fuse.again", FILE_NAME)


def _clear(directory: str) -> None:
    """Removes a FUSE directory that nobody serves."""
    if is_mount_point(directory):
        unmount_lazily(directory)
    with suppress(FileNotFoundError):
        os.rmdir(directory)


def wait_until(detached: Callable[[], bool], path: str, timeout_s: float | None = None) -> None:
    """The kernel detaches a loop device by itself after its last user, which it does not announce.

    Raises `ObdError` of kind "busy" if it takes longer than `timeout_s`.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    pause_s = 0.001
    while not certainly(detached):
        if deadline is not None and time.monotonic() > deadline:
            raise ObdError("busy", "in use: goes when its last user does", path)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.5)
