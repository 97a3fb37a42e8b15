"""Requests that take too long are told of, with what they wait for."""

from __future__ import annotations

import logging
import time
from typing import Final

from obd.daemon import limits
from obd.daemon.served import Served

_log: Final = logging.getLogger("overlaybd.tcmu")


class Watch:
    """Looks at devices, again and again."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}
        self._progress: dict[str, tuple[int, float]] = {}

    def look(self, devices: list[Served]) -> int:
        """Tells of slow requests: after `SLOW_S`, twice that, and so on. How many devices have one."""
        found: dict[str, float] = {}
        progress: dict[str, tuple[int, float]] = {}
        for served in devices:
            age_s, what = self._slowest(served, progress)
            if age_s < limits.SLOW_S:
                continue
            told_s = self._told.get(served.name, 0.0)
            found[served.name] = told_s if told_s <= age_s else 0.0
            if age_s >= 2 * found[served.name]:
                found[served.name] = age_s
                _log.warning("%s: %s for %.0f s and not done yet", served.name, what, age_s)
        self._told, self._progress = found, progress
        return len(found)

    def _slowest(self, served: Served, progress: dict[str, tuple[int, float]]) -> tuple[float, str]:
        ring = served.ring
        if ring is None:
            return 0.0, ""
        age_s, what = ring.oldest() or (0.0, "")
        # What no worker has: the thread of the ring itself may hang in a disk.
        stats = ring.stats()
        if stats["active"]:
            done, now = stats["requests"] - stats["active"], time.monotonic()
            before, since = self._progress.get(served.name, (done, now))
            progress[served.name] = (done, since if before == done else now)
            stuck_s = now - progress[served.name][1]
            if stuck_s > age_s:
                age_s, what = stuck_s, f"{stats['active']} requests, none of which has ended,"
        return age_s, what
