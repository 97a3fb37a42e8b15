"""Which running process or device a command means."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tools.errors import Failure, describe, say

if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]


def running(which: str | None = None) -> list[Facts]:
    """What each process says, or those that `which` (a process number or the name of a device) means."""
    from obd.sockets import processes, statistics

    found = []
    for pid in processes():
        try:
            facts = statistics(pid)
        except OSError as error:
            # It may just have ended; the others are as they are.
            say(f"obd: warning: {describe(error)}")
            continue
        if which and which != str(pid):
            facts["devices"] = [device for device in facts["devices"] if which in names(device)]
            if not facts["devices"]:
                continue
        found.append(facts)
    if which and not found:
        raise Failure(f"obd: not-found: no process or device {which}")
    return found


def names(device: Facts) -> tuple[str, ...]:
    """What a device may be called on the command line."""
    return (device["name"], device["address"], device["image"])


def the_device(which: str) -> tuple[int, str]:
    """Process and name of the one device that is meant by number, name, address or image.

    Raises `Failure` if it is none or several.
    """
    return _only(which, running(which))


def device_of_image(config: str) -> tuple[int, str]:
    """Process and name of the one device of the image configuration at a path. Raises `Failure` likewise."""
    path = os.path.realpath(config)
    found = running()
    for facts in found:
        facts["devices"] = [one for one in facts["devices"] if os.path.realpath(one["image"]) == path]
    return _only(config, found)


def _only(which: str, found: list[Facts]) -> tuple[int, str]:
    fits = [(facts["pid"], device["name"]) for facts in found for device in facts["devices"]]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise Failure(f"obd: not-found: no device of {which} is served or mounted here")
    many = ", ".join(f"{name!r} of process {pid}" for pid, name in fits)
    raise Failure(f"obd: {which} is several devices ({many}): name one by its address")
