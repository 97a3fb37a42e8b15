"""Giving up what a process that serves images does not need: capabilities, and ever getting more."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Collection
from typing import Final

_log: Final = logging.getLogger("overlaybd.privileges")

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_VERSION_3: Final = 0x20080522
_LAST: Final = "/proc/sys/kernel/cap_last_cap"

# linux/capability.h
CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER = 0, 1, 2, 3
SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE = 19, 21, 24
NET_BIND_SERVICE, NET_ADMIN, IPC_LOCK = 10, 12, 14

# Files of images wherever they lie and whose they are.
FILES: Final = (CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER)
# Ports below 1024 too.
SERVING: Final = (*FILES, NET_BIND_SERVICE)
# Mounts, loop devices, NBD by netlink, ublk and its memory, not waiting for itself when memory is short, and
# seeing who uses a device (in processes that have more than this).
KEEPING: Final = (*FILES, SYS_ADMIN, NET_ADMIN, SYS_RESOURCE, IPC_LOCK, SYS_PTRACE)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def give_up(keep: Collection[int]) -> None:
    """Has root keep these capabilities alone, and gain none by what is run; before any thread is started.

    Others than root have none; they may need a helper that has (`fusermount3`). A kernel that refuses is a
    line in the log: what is served does not depend on it.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with open(_LAST, encoding="ascii") as file:
            last = min(int(file.read()), 63)
        for number in range(last + 1):
            if number not in keep:
                # A container may lack the right to do this: it makes no difference, as nothing is gained.
                libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
        _need(libc.capget(ctypes.byref(header), sets))
        for word, each in enumerate(sets):
            mask = sum(1 << number - 32 * word for number in keep if number // 32 == word)
            each.effective &= mask
            each.permitted &= mask
            each.inheritable = 0
        _need(libc.capset(ctypes.byref(header), sets))
        _need(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    except (OSError, ValueError) as error:
        _log.warning("privileges are kept: %s", error)


def _need(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
