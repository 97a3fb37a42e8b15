"""Holding what the kernel has against what is served, in case an announcement was lost or a ring failed."""

from __future__ import annotations

import logging
from typing import Final

import tcmu
from obd.daemon.roster import Roster

_log: Final = logging.getLogger("overlaybd.tcmu")


class Reconciler:
    """Looks now and then; for the thread that hears the announcements."""

    def __init__(self, subtype: str, roster: Roster) -> None:
        self._subtype: Final = subtype
        self._roster: Final = roster
        self._strangers: set[tcmu.Device] = set()

    def look(self) -> None:
        """Takes over what nobody serves; closes what is gone."""
        there = {device.minor: device for device in tcmu.devices(self._subtype)}
        for served in self._roster.all():
            minor = served.device.minor
            if there.get(minor) == served.device:
                del there[minor]
                if served.ring is not None and not served.serving:
                    self._roster.serve_again(served)
            elif minor not in there:
                _log.warning("%s is gone and was not announced to be", served.name)
                self._roster.remove(served.device)
        # What is not ours now may be announced any moment; if it is not until the next time, it will not be.
        strangers = set(there.values())
        for device in strangers & self._strangers:
            _log.warning("%s is there and nobody serves it", device.backstore)
            self._roster.take_over(device)
        self._strangers = strangers
