"""Settings of a process on which disks depend."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from typing import Final

_log: Final = logging.getLogger("overlaybd.tcmu")

# <linux/prctl.h>
_PR_SET_THP_DISABLE: Final = 41
_PR_SET_IO_FLUSHER: Final = 57
# <malloc.h>
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2

_OPEN_FILES: Final = 1 << 20

_libc: Final = ctypes.CDLL(None, use_errno=True)


def settle() -> None:
    """To be called before there are threads. What the system refuses is not worth ending for."""
    # Each thread would get an area of its own to allocate from, and never give it back.
    _libc.mallopt(_M_ARENA_MAX, _ARENAS)
    for option, what in (
        # Small and scattered: huge pages would only waste memory.
        (_PR_SET_THP_DISABLE, "transparent huge pages stay on"),
        # The kernel writes memory back through this process, so it must not wait for that to make room.
        (_PR_SET_IO_FLUSHER, "not marked as one that carries out I/O"),
    ):
        if _libc.prctl(option, 1, 0, 0, 0):
            _log.info("%s: %s", what, os.strerror(ctypes.get_errno()))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    for limit in (hard if unlimited else max(hard, _OPEN_FILES), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return
        except (OSError, ValueError):
            continue


def trim() -> None:
    """Gives memory back to the system."""
    _libc.malloc_trim(0)
