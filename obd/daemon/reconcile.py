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
        self._waiting: set[tcmu.Device] = set()

    def look(self, owed: set[int]) -> None:
        """Takes over what nobody serves, closes what is gone. `owed`: numbers that await a reply of ours.

        What looks wrong now may be announced any moment; if it is not until the next time, it will not be.
        """
        there = {device.minor: device for device in tcmu.devices(self._subtype)}
        waiting = {there[minor] for minor in there.keys() - owed if not there[minor].backstore.enabled()}
        for served in self._roster.all():
            minor = served.device.minor
            if there.get(minor) == served.device:
                del there[minor]
                if served.ring is not None and not served.serving and served.device not in waiting:
                    self._roster.serve_again(served)
            elif minor not in there:
                _log.warning("%s is gone and was not announced to be", served.name)
                self._roster.remove(served.device)
        strangers = set(there.values()) - waiting
        for device in strangers & self._strangers:
            _log.warning("%s is there and nobody serves it", device.backstore)
            self._roster.take_over(device)
        self._strangers = strangers
        self._set_free(waiting)

    def _set_free(self, waiting: set[tcmu.Device]) -> None:
        """Lets nobody wait for a reply to an announcement that never came here."""
        if stuck := waiting & self._waiting:
            names = ", ".join(str(device.backstore) for device in stuck)
            _log.error("the kernel waits for replies about %s, of which nothing was announced", names)
            with tcmu.quiet():
                pass
        self._waiting = waiting
