"""A mount as its keeper sees it: made on a device that is there for it alone, and waited for."""

import logging
import select
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from obd.attach.fuse import ServedFile
from obd.attach.process import Request
from obd.attach.ways import certainly
from obd.errors import ObdError
from obd.mount import filesystem

if TYPE_CHECKING:
    from obd.attach.keeper import Stops

# How often to look though nothing has changed: when it did, it may not have been possible.
LOOK_MS: Final = 10_000

_log: Final = logging.getLogger("overlaybd.mount")


def mount(served: ServedFile, request: Request, device: Any, undo: ExitStack) -> str:
    """Mounts a served image where the request says; a warning, or ""."""
    head = device.read(0, min(filesystem.HEAD_BYTES, device.size))
    undo.callback(_unmount, request.directory, served.number)
    return filesystem.mount(
        served.path, request.directory, head, read_only=request.read_only, options=request.options
    )


def _unmount(directory: str, number: str) -> None:
    """Takes back our mount, if it was made."""
    if (number, directory) in filesystem.mounts():
        filesystem.unmount_lazily(directory)


def wait_until_unused(directory: str, served: ServedFile, stops: "Stops") -> None:
    """Returns when no mount uses the loop device any more, in this namespace or another.

    A request to end unmounts it if nothing uses it; else it is served on.
    """

    def unused() -> bool:
        return directory not in (point for _, point in filesystem.mounts()) or not served.attached

    with open("/proc/self/mountinfo", "rb") as mountinfo:
        poll = select.poll()
        poll.register(mountinfo, select.POLLERR | select.POLLPRI)
        poll.register(stops.fd, select.POLLIN)
        while not certainly(unused):
            for fd, _ in poll.poll(LOOK_MS):
                if fd == stops.fd:
                    stops.taken()
                    try:
                        if lost := filesystem.unmount(directory):
                            _log.error("%s", lost)
                    except ObdError as error:
                        _log.warning("asked to end, but %s", error)
    served.wait_until_detached()
