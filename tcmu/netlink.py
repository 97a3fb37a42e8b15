"""What the kernel announces of TCMU devices, and the replies that it waits for.

The kernel waits for each reply without a time limit, while whoever wrote to configfs hangs: every event of an
own device must be answered, in any order and by any thread. Events of others' devices must not be.
"""

import enum
import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tcmu import genetlink
from tcmu.genetlink import Asker, attribute, attributes, messages, number, text
from tcmu.uio import Device

FAMILY, VERSION, GROUP = "TCM-USER", 2, "config"
PARAMETERS = Path("/sys/module/target_core_user/parameters")

# <linux/target_core_user.h>
DEVICE, MINOR, CONFIG, SIZE, WRITE_CACHE, STATUS, DEVICE_ID, KERNEL_WAITS = 1, 2, 4, 5, 6, 7, 8, 9
DONE = 3  # what the command of a reply is above that of its event
SET_FEATURES = 7

# <linux/netlink.h>, <linux/socket.h>
SOL_NETLINK, ADD_MEMBERSHIP, DROP_MEMBERSHIP, NO_ENOBUFS = 270, 1, 2, 5
SO_RCVBUFFORCE = 33

# Room for the events of some ten thousand devices that are made at once: one that is lost hangs its maker.
RECEIVE_BUFFER_BYTES = 4 << 20
MAX_EVENT_BYTES = 1 << 16


class Change(enum.Enum):
    """What happened to a device."""

    ADDED = 1
    REMOVED = 2
    RECONFIGURED = 3


@dataclass(frozen=True)
class Event:
    """Something that happened to a device, and that the kernel wants a reply to.

    After a reconfiguration one of `config`, `size_bytes`, `write_cache` is what is wanted now.
    """

    change: Change
    device_id: int
    device: Device
    config: str | None = None
    size_bytes: int | None = None
    write_cache: bool | None = None


class Link:
    """The connection over which the kernel announces devices. From now on it waits for replies.

    Needs CAP_NET_ADMIN. `FileNotFoundError` if the module target_core_user is not there.
    """

    def __init__(self) -> None:
        self._asker = Asker()
        self._events = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, genetlink.GENERIC
        )
        try:
            self._join()
        except BaseException:
            self.close()
            raise

    def _join(self) -> None:
        try:
            self._family, groups = self._asker.family(FAMILY)
        except FileNotFoundError as e:
            what = "the kernel has no TCM-USER: load the module target_core_user"
            raise FileNotFoundError(errno.ENOENT, what) from e
        self._events.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        self._events.setsockopt(SOL_NETLINK, NO_ENOBUFS, 1)
        self._events.bind((0, 0))
        self._group = groups[GROUP]
        self._events.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, self._group)
        # A kernel that does not know this does not wait either.
        try:
            self._asker.ask(self._family, SET_FEATURES, VERSION, attribute(KERNEL_WAITS, b"\1"))
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP:
                raise

    def fileno(self) -> int:
        """The descriptor to poll: readable when there are events."""
        return self._events.fileno()

    def receive(self) -> list[Event]:
        """The events that have come, none if there are none yet. What makes no sense is left out."""
        try:
            data, (sender, _) = self._events.recvfrom(MAX_EVENT_BYTES)
        except BlockingIOError:
            return []
        return parse(data, self._family) if sender == 0 else []  # 0: the kernel itself

    def leave(self) -> list[Event]:
        """Hears no more events; those that have come and not been received. Replies can still be given."""
        self._events.setsockopt(SOL_NETLINK, DROP_MEMBERSHIP, self._group)
        events = []
        with suppress(BlockingIOError):
            while True:
                data, (sender, _) = self._events.recvfrom(MAX_EVENT_BYTES)
                events += parse(data, self._family) if sender == 0 else []
        return events

    def reply(self, event: Event, error: int = 0) -> None:
        """Tells the kernel that the event has been dealt with, or with which errno it failed.

        For a new device this is the outcome of its creation. May be called by any thread. `OSError` if the
        kernel does not wait for it (any more).
        """
        device_id = attribute(DEVICE_ID, struct.pack("=I", event.device_id))
        status = attribute(STATUS, struct.pack("=i", -error))
        self._asker.ask(self._family, event.change.value + DONE, VERSION, status, device_id)

    def close(self) -> None:
        """Hears no more events. The kernel goes on waiting for replies."""
        self._events.close()
        self._asker.close()

    def __enter__(self) -> "Link":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self.close()


def parse(data: bytes, family: int) -> list[Event]:
    """The events in what was received from the kernel."""
    events = []
    for kind, _, body in messages(data):
        if kind != family or len(body) < genetlink.COMMAND.size:
            continue
        command, _ = genetlink.COMMAND.unpack_from(body)
        found = attributes(body[genetlink.COMMAND.size :])
        with suppress(ValueError):
            events.append(
                Event(
                    Change(command),
                    number(found, DEVICE_ID),
                    Device.parse(number(found, MINOR), text(found.get(DEVICE, b""))),
                    text(found[CONFIG]) if CONFIG in found else None,
                    number(found, SIZE) if SIZE in found else None,
                    bool(number(found, WRITE_CACHE)) if WRITE_CACHE in found else None,
                )
            )
    return events


@contextmanager
def quiet() -> Iterator[None]:
    """Frees all who wait for replies that nobody gives any more, and lets nobody begin to wait.

    For the start, around the making of a `Link` and the look at existing devices: whoever creates a device
    meanwhile gets EAGAIN. It concerns every program that serves TCMU devices, so it must be short.
    """
    hold()
    try:
        _set("reset_netlink", "1")
        yield
    finally:
        unhold()


def hold() -> None:
    """Lets nobody begin to wait for a reply: whoever creates a device is told to try again (EAGAIN)."""
    _set("block_netlink", "1")


def unhold() -> None:
    """Ends `hold`."""
    _set("block_netlink", "0")


def _set(parameter: str, value: str) -> None:
    """Sets a parameter of the module; older kernels (before 4.20) lack them."""
    with suppress(FileNotFoundError):
        (PARAMETERS / parameter).write_text(value)
