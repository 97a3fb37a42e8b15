"""What works beside an open device until it closes: background work that the device does not depend on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from obd.errors import line_of

if TYPE_CHECKING:
    from obd.image import Device
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.image")


class Companion(Protocol):
    """Work beside a device, in threads of its own."""

    def stop(self) -> None:
        """Ends the work soon and waits for it. Must be safe to call twice, and never raises."""


def start_companions(device: Device, service: Service) -> None:
    """Starts what the configurations of device and host ask for; one that cannot start is a warning."""
    for start in _STARTERS:
        try:
            companion = start(device, service)
        except OSError as error:
            _log.warning("%s: %s", device.config.file or "image", line_of(error))
            continue
        if companion is not None:
            device.attend(companion)


def _start_trace(device: Device, service: Service) -> Companion | None:
    if not device.config.acceleration_layer and not device.config.record_trace_path:
        return None
    from obd.traces import start_trace

    return start_trace(device, service)


def _start_downloads(device: Device, service: Service) -> Companion | None:
    _tidy(device)
    if device.is_local or device.recording:
        return None
    from obd.downloads import start_downloads

    return start_downloads(device, service)


def _tidy(device: Device) -> None:
    """Removes what downloads left in the directories of layers, whose processes were killed at their end."""
    for source in device.sources:
        for part in source.parts:
            if part.lower.dir and os.path.exists(os.path.join(part.lower.dir, ".download.lock")):
                from cache.partial import Partial

                Partial.tidy(part.lower.dir)


# Each looks whether its work is wanted: None if not. Started in this order, stopped in the other.
_STARTERS: Final[tuple[Callable[[Device, Service], Companion | None], ...]] = (
    _start_trace,
    _start_downloads,
)
