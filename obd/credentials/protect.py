"""Keeping what a process knows out of core dumps, and out of reach of other processes of the same user."""

import logging
import os
from typing import Final

_PR_SET_DUMPABLE: Final = 4
# For whoever has to look for a crash of the core: dumps are left on.
ALLOW_DUMPS: Final = "OBD_ALLOW_CORE_DUMPS"


def no_core_dumps() -> None:
    """Switches core dumps of this process off, and tracing by others than root.

    For commands that run for long: it is the process's own affair, and so not done by the library. Python
    cannot wipe a string, nor keep single pages out of a dump. The limit of the shell (`ulimit -c`) would not
    do: a dump that is piped to a program ignores it.
    """
    if os.environ.get(ALLOW_DUMPS):
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        reason = os.strerror(ctypes.get_errno())
        logging.getLogger("overlaybd.credentials").warning("core dumps stay on: %s", reason)
