"""Takes over a device that another process served, which may have died at any moment."""

from collections.abc import Callable
from typing import TypeVar

from tcmu.uio import Device

T = TypeVar("T")


def take_over(device: Device, serve: Callable[[Device], T]) -> T:
    """Begins to serve a device that exists already; what `serve` returns.

    Meanwhile the kernel holds commands back; those that were under way go out again. If `serve` fails the
    device stays blocked, so that its users wait instead of getting errors: call this again. `OSError` with
    EINVAL or ENOENT, and no call of `serve`, if the device is gone or was never there for its users: whoever
    was creating it when `quiet` began is told to try again, and that is announced.
    """
    device.backstore.block()
    device.backstore.reset_ring()
    served = serve(device)
    device.backstore.unblock()
    return served
