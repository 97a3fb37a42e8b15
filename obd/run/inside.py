"""Files of a root file system, opened without following its links to anywhere outside."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Final

from obd.errors import ObdError

# openat2(2) has the same number on all architectures.
_OPENAT2: Final = 437
_IN_ROOT: Final = 0x10 | 0x02  # RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
# The kernel gives up a path with .. if anything is renamed or mounted anywhere meanwhile: EAGAIN.
_ATTEMPTS: Final = 10_000

# No list of users is longer.
MAX_BYTES: Final = 4 << 20


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def read_inside(root: str, path: str) -> str:
    """The text of the regular file `path` of the tree at `root`; "" if there is none. Raises `OSError`."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = _open(top, path)
    except FileNotFoundError:
        return ""
    finally:
        os.close(top)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return ""
        if found.st_size > MAX_BYTES:
            raise ObdError("limit", f"a file of {found.st_size} bytes, at most {MAX_BYTES}", path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES).decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)


def _open(top: int, path: str) -> int:
    how = _How(os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0, _IN_ROOT)
    libc = ctypes.CDLL(None, use_errno=True)
    number = errno.EAGAIN
    for _ in range(_ATTEMPTS):
        descriptor: int = libc.syscall(
            ctypes.c_long(_OPENAT2),
            top,
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), path)
