"""Loop devices: a file becomes a block device."""

import errno
import fcntl
import glob
import os
import struct
from dataclasses import dataclass
from typing import Final

from obd.errors import ObdError, about

# linux/loop.h
_CTL_GET_FREE: Final = 0x4C82
_CONFIGURE: Final = 0x4C0A
_CLEAR: Final = 0x4C01
_FLUSH: Final = 0x1261  # BLKFLSBUF of linux/fs.h
_CHANGE: Final = 0x4C06
_SET_CAPACITY: Final = 0x4C07
_READ_ONLY: Final = 1
_AUTOCLEAR: Final = 4
_DIRECT_IO: Final = 16
# struct loop_config: fd, block size; device .. sizelimit; number .. flags; names, key, init; reserved.
_CONFIG: Final = struct.Struct("=II 5Q 4I 64s 64s 32s 2Q 64x")

# What a file of /sys says of which the device is, or is just becoming, detached.
_GONE: Final = (errno.ENOENT, errno.ENODEV, errno.ENXIO)

# Somebody else may take the free device first; so often is more than bad luck.
_ATTEMPTS: Final = 64


@dataclass(frozen=True, slots=True)
class Loop:
    """An attached loop device. A transient one stays as long as `fd` is open or something else uses it."""

    path: str
    fd: int

    @property
    def number(self) -> str:
        """`MAJOR:MINOR`, as in mountinfo."""
        device = os.fstat(self.fd).st_rdev
        return f"{os.major(device)}:{os.minor(device)}"


def attach(file: str, *, read_only: bool, transient: bool) -> Loop:
    """Attaches `file` to a free loop device, by direct I/O where possible so that it is not cached twice.

    A transient one detaches itself when its last user is gone: the caller closes `fd` once something else (a
    mount) holds the device. Raises `ObdError` or `OSError`.
    """
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    backing = _open(file, read_only)
    try:
        for _ in range(_ATTEMPTS):
            with about("/dev/loop-control"):
                path = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            device = _open(path, read_only)
            try:
                _configure(device, backing, os.fsencode(file), read_only, transient)
                return Loop(path, device)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise ObdError("io", f"cannot attach {file}: {error.strerror}", path) from error
        raise ObdError("busy", "no free loop device")
    finally:
        os.close(backing)
        os.close(control)


def opened(path: str) -> Loop:
    """A loop device that is attached. Raises `OSError`."""
    return Loop(path, _open(path, True))


def change(path: str, file: str) -> None:
    """Puts `file` in the place of another of its size, behind a read-only loop device. Raises `ObdError`."""
    device, backing = _open(path, True), _open(file, True)
    try:
        fcntl.ioctl(device, _CHANGE, backing)
    except OSError as error:
        raise ObdError("io", f"cannot put {file} behind it: {error.strerror}", path) from error
    finally:
        os.close(backing)
        os.close(device)


def grow(path: str) -> None:
    """Gives a loop device the size that its file has now. Raises `OSError`."""
    device = _open(path, True)
    try:
        with about(path):
            fcntl.ioctl(device, _SET_CAPACITY)
    finally:
        os.close(device)


def detach(fd: int) -> None:
    """Detaches the loop device that `fd` is open on; if it has other users, when the last of them is gone."""
    with about(os.readlink(f"/proc/self/fd/{fd}")):
        fcntl.ioctl(fd, _FLUSH)  # the kernel would throw away what was written and is in its cache
        fcntl.ioctl(fd, _CLEAR)


def _open(path: str, read_only: bool) -> int:
    return os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)


def _configure(device: int, backing: int, name: bytes, read_only: bool, transient: bool) -> None:
    flags = (_AUTOCLEAR if transient else 0) | (_READ_ONLY if read_only else 0)
    for extra in (_DIRECT_IO, 0):
        record = _CONFIG.pack(
            backing, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags | extra, name[:63], b"", b"", 0, 0
        )  # fmt: skip
        try:
            fcntl.ioctl(device, _CONFIGURE, record)
            return
        except OSError as error:
            if error.errno != errno.EINVAL or not extra:
                raise


def backing_file(path: str) -> str | None:
    """The file behind the loop device `path`, None if it is detached. Raises `OSError` if it cannot look."""
    try:
        name = f"/sys/block/{os.path.basename(path)}/loop/backing_file"
        with about(name), open(name) as file:
            return file.read().removesuffix("\n")
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return None


def find(file: str) -> str:
    """The loop device with `file` behind it, "" if there is none."""
    nodes = (f"/dev/{name.split('/')[3]}" for name in glob.glob("/sys/block/loop*/loop"))
    return next((path for path in nodes if backing_file(path) == file), "")
