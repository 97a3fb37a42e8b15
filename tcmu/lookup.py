"""Opening what lies in configfs without waiting for a removal.

While a backstore is removed the kernel holds locks of its directory and of the one above, until the program
that serves it has replied. If that program looked up a name there it would wait for itself, for ever, and not
even SIGKILL would end it.
"""

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Final

# <linux/openat2.h>, and the number of the call on every machine
_RESOLVE_CACHED: Final = 0x20
_OPENAT2: Final = 437
# An old kernel, or a filter that does not know the call.
_NOT_KNOWN: Final = (errno.ENOSYS, errno.EINVAL, errno.EPERM)

# A mount or a renaming anywhere on the machine makes the kernel say that it would have to wait.
_ATTEMPTS: Final = 8

_libc: Final = ctypes.CDLL(None, use_errno=True)


def open_cached(root: Path, name: str, flags: int) -> int:
    """Opens `name`, relative to the directory `root`, only if the kernel has all of it at hand.

    What exists below `core` in configfs it has: directories always, files while somebody has them open.
    `FileNotFoundError` if it does not, or would have to wait. Before Linux 5.12 it may wait.
    """
    above = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_CACHED)
        for _ in range(_ATTEMPTS):
            descriptor = int(_libc.syscall(_OPENAT2, above, os.fsencode(name), how, len(how)))
            if descriptor >= 0:
                return descriptor
            number = ctypes.get_errno()
            if number != errno.EAGAIN:
                break
        if number in _NOT_KNOWN:
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=above)
        number = errno.ENOENT if number == errno.EAGAIN else number
        raise OSError(number, os.strerror(number), str(root / name))
    finally:
        os.close(above)


def open_inside(root: Path, directory: str, name: str, flags: int) -> int:
    """Opens the file `name` in a `directory` below `root`; only the last step may have to look it up.

    Errors: `OSError`, of kind `FileNotFoundError` too if the directory is being removed.
    """
    inside = open_cached(root, directory, os.O_PATH | os.O_DIRECTORY)
    try:
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=inside)
    finally:
        os.close(inside)
