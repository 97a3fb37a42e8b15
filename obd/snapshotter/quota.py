"""How much a container may write to an overlay: a project quota on its directories.

Each snapshot is a project of its own. Source: the manual pages quotactl(2) and ioctl_xfs_fsgetxattr(2), and
the kernel's headers linux/quota.h and linux/fs.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import struct
from typing import Final

from obd.snapshotter.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, UNAVAILABLE, SnapshotError

FIRST_PROJECT: Final = 1 << 24
MAX_BYTES: Final = 1 << 60
_SIZE: Final = re.compile(r"([0-9]{1,18})(?:([kmgtp])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)

# struct fsxattr: flags, extent size, extents, project, extent size of copies, padding.
_FSXATTR: Final = struct.Struct("=5I8x")
_FSGETXATTR: Final = 0x801C581F
_FSSETXATTR: Final = 0x401C5820
_PROJECT: Final = 3
_PROJINHERIT: Final = 0x200

# struct if_dqblk: limits and use of space, of inodes, times, which of them count.
_DQBLK: Final = struct.Struct("=8QI4x")
_BLOCK_BYTES: Final = 1024
_BLOCK_LIMITS: Final = 1
_SET_PROJECT_QUOTA: Final = 0x800008 << 8 | 2
_SYS_QUOTACTL_FD: Final = 443

_NOT_HERE: Final = (errno.ENOSYS, errno.ESRCH, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


def size_bytes(text: str, what: str) -> int:
    """The bytes in `20g`, `512MiB` or `1048576`; 0, and so no quota, for "". Raises `SnapshotError`."""
    if not text:
        return 0
    found = _SIZE.fullmatch(text)
    size = int(found[1]) << 10 * (" kmgtp".index((found[2] or " ").lower())) if found else 0
    if not _BLOCK_BYTES <= size <= MAX_BYTES:
        raise SnapshotError(INVALID_ARGUMENT, f"{what}: {text!r} must be a size of at least 1k, such as 20g")
    return size


def limit(number: int, directories: tuple[str, ...], size: int) -> None:
    """Lets the files of a snapshot below some empty directories take `size` bytes. Raises `SnapshotError`.

    All of them have to be of the same project: files are moved from one to the other.
    """
    project = FIRST_PROJECT + number
    for path in directories:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _allow(descriptor, project, size)
            flags, *rest = _FSXATTR.unpack(fcntl.ioctl(descriptor, _FSGETXATTR, bytes(_FSXATTR.size)))
            rest[_PROJECT - 1] = project
            fcntl.ioctl(descriptor, _FSSETXATTR, _FSXATTR.pack(flags | _PROJINHERIT, *rest))
        except OSError as error:
            if error.errno in _NOT_HERE:
                why = "project quotas are not to be had there (mount it with prjquota)"
                raise SnapshotError(FAILED_PRECONDITION, f"no quota for {path}: {why}") from error
            raise SnapshotError(UNAVAILABLE, f"no quota for {path}: {error.strerror}") from error
        finally:
            os.close(descriptor)


def forget(number: int, directory: str) -> None:
    """Drops the limit of a snapshot that goes, if it has one."""
    project = FIRST_PROJECT + number
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        found = _FSXATTR.unpack(fcntl.ioctl(descriptor, _FSGETXATTR, bytes(_FSXATTR.size)))
        if found[_PROJECT] == project:
            _allow(descriptor, project, 0)
    except OSError:
        return  # nothing of it depends on this: the number is never used again
    finally:
        os.close(descriptor)


def _allow(descriptor: int, project: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    blocks = -(-size // _BLOCK_BYTES)
    wanted = ctypes.create_string_buffer(_DQBLK.pack(blocks, *([0] * 7), _BLOCK_LIMITS), _DQBLK.size)
    command = ctypes.c_uint(_SET_PROJECT_QUOTA)
    if libc.syscall(_SYS_QUOTACTL_FD, descriptor, command, ctypes.c_uint(project), wanted) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
