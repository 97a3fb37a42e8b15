"""Images as block devices of this machine, whatever its kernel has: attached, listed, detached.

`attach` works from any process; the device stays until `detach`, also when the caller ends.
"""

import os
from dataclasses import dataclass
from typing import Final

# How a device can be served, best first.
WAYS: Final = ("ublk", "tcmu", "nbd", "fuse")


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image that is attached as the block device `path`.

    `name` tells it from all others here. `via` is one of `WAYS`, and `why` says why it is that one. `pid` is
    the process that serves it, 0 if that is a daemon. `dead` is true of a device whose server died, and which
    is in use or waits for another one; attaching the image again serves it again, where the kernel lets it.
    """

    name: str
    path: str
    via: str
    config: str
    read_only: bool
    why: str = ""
    pid: int = 0
    dead: bool = False


def attach(
    config: str | os.PathLike[str],
    *,
    via: str = "auto",
    rw: bool = False,
    service: str | os.PathLike[str] | None = None,
) -> Attachment:
    """Makes a block device of the image that the configuration file `config` describes.

    `via` is one of `WAYS`, or "auto" for the best that works here. Without `rw` the device is read-only; with
    it the image must have an upper. `service` is the path of a service configuration, None that of the host.
    If the process that served the same image has died, its device is served again, under its users, where
    that can be.

    Raises `obd.errors.ObdError`: "exists" if the image is attached already, "unsupported" if there is no way,
    and what opening it raises. Then nothing is left behind.
    """
    from obd.attach.control import attach_image

    return attach_image(os.fspath(config), via, rw, os.fspath(service) if service is not None else None)


def detach(name: str | os.PathLike[str]) -> bool:
    """Takes away what `name` is: a device, an image configuration, or the name of an attachment.

    Returns when all that was written is durable. False if there is no such attachment. Raises
    `obd.errors.ObdError`: "busy", and who uses it, if it is in use (then it stays); "io" if the last writes
    may be lost; "denied" for another's device.
    """
    from obd.attach.control import detach_image

    return detach_image(os.fspath(name))


def attachments() -> list[Attachment]:
    """All attachments of this machine. What one left that died, and nobody uses, is removed first."""
    from obd.attach.control import list_attachments

    return list_attachments()


def find(config: str | os.PathLike[str]) -> Attachment | None:
    """The attachment of an image configuration, None if there is none. As `attachments`, of one."""
    from obd.attach.control import find_attachment

    return find_attachment(os.fspath(config))


def abandon(config: str | os.PathLike[str]) -> None:
    """Lets go of a FUSE device whose server died and that is in use: its users get errors, it goes with them.

    The image can then be attached anew, as another device. Does nothing if the image is not attached so.
    Raises `OSError`.
    """
    from obd.attach.control import abandon_attachment

    abandon_attachment(os.fspath(config))
