"""What a backstore's configuration string asks for: `overlaybd/PATH[;ID]`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final, Self

import tcmu
from obd.errors import ObdError


@dataclass(frozen=True, slots=True)
class Target:
    """Path of an image configuration, and the name under which the management interface knows the device."""

    path: str
    dev_id: str

    @classmethod
    def of(cls, device: tcmu.Device) -> Self:
        """What the device is to be. `ObdError` if the string names no path.

        The path is all from the first slash to the first semicolon; so an absolute one shows a slash twice.
        """
        path, _, dev_id = device.argument.partition(";")
        if not path:
            raise ObdError("invalid", f"{device.config!r} names no image configuration")
        return cls(path, dev_id)


class Ids:
    """The device ids that are in use: no two open devices have the same."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._taken: Final[dict[str, object]] = {}

    def take(self, dev_id: str, owner: object) -> None:
        """Takes an id; the empty one is no id. `ObdError` of kind "busy" if another owner has it."""
        with self._lock:
            if dev_id and self._taken.setdefault(dev_id, owner) is not owner:
                raise ObdError("busy", f"duplicated dev id: {dev_id}")

    def free(self, owner: object) -> None:
        """Gives back what `owner` has."""
        with self._lock:
            for dev_id in [dev_id for dev_id, other in self._taken.items() if other is owner]:
                del self._taken[dev_id]
