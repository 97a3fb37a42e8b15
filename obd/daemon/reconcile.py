"""Holding what the kernel has against what is served, in case an announcement was lost or a ring failed."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Final

import tcmu
from obd.daemon.roster import Roster
from obd.daemon.work import Pool

_log: Final = logging.getLogger("overlaybd.tcmu")


class Reconciler:
    """Looks now and then; for the thread that hears the announcements."""

    def __init__(self, subtype: str, roster: Roster) -> None:
        self._subtype: Final = subtype
        self._roster: Final = roster
        self._strangers: set[tcmu.Device] = set()
        self._unheard: Final = Unheard()

    def look(self, owed: Set[int]) -> None:
        """Takes over what nobody serves, closes what is gone. `owed`: numbers that await a reply of ours.

        What looks wrong now may be announced any moment; if it is not until the next time, it will not be.
        """
        there = {device.minor: device for device in tcmu.devices(self._subtype)}
        if self._unheard.look([there[minor] for minor in there.keys() - owed], bool(owed)):
            return  # what is there is not so any more
        for served in self._roster.all():
            minor = served.device.minor
            if there.get(minor) == served.device:
                del there[minor]
                if served.ring is not None and not served.serving and minor not in owed:
                    self._roster.serve_again(served)
            elif minor not in there:
                _log.warning("%s is gone and was not announced to be", served.name)
                self._roster.remove(served.device)
        strangers = {device for minor, device in there.items() if minor not in owed}
        for device in strangers & self._strangers:
            _log.warning("%s is there and nobody serves it", device.backstore)
            self._roster.take_over(device)
        self._strangers = strangers


class Unheard:
    """Finds out that the kernel waits for a reply to an announcement that never came here, and ends that."""

    def __init__(self) -> None:
        self._pool: Final = Pool("look", 1)
        self._waiting: list[tcmu.Device] = []
        self._times = 0

    def look(self, devices: list[tcmu.Device], owed: bool) -> bool:
        """Whether a wait was ended. For `devices` no reply is owed; `owed`: for others it is."""
        # Who looks at a device that is being removed hangs until that has been replied to.
        hangs = self._pool.busy > 0
        self._times = self._times + 1 if not owed and (hangs or self._waiting) else 0
        if self._times > 1:
            names = ", ".join(str(device.backstore) for device in self._waiting) or "a device that is removed"
            _log.error("the kernel waits for a reply about %s, of which nothing was announced", names)
            with tcmu.quiet():
                self._times = 0
            return True
        if not hangs:
            self._pool.submit(lambda: self._read(devices))
        return False

    def _read(self, devices: list[tcmu.Device]) -> None:
        self._waiting = [device for device in devices if not device.backstore.enabled()]
