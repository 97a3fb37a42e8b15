"""A limit on bytes per second: a token bucket that pays afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Unused time that counts: after a pause so much may go at full speed.
BURST_S: Final = 0.25


class Rate:
    """Lets a long-term average of `bytes_per_s` pass; 0 or less is no limit."""

    def __init__(
        self,
        bytes_per_s: float,
        wait: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wait(seconds)` may return early, as when it is time to stop."""
        self._bytes_per_s: Final = bytes_per_s
        self._wait: Final = wait
        self._clock: Final = clock
        self._free_at = clock()

    def spend(self, count: int) -> None:
        """Takes note of `count` bytes, then waits until the average is kept."""
        if self._bytes_per_s <= 0:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - BURST_S) + count / self._bytes_per_s
        if self._free_at > now:
            self._wait(self._free_at - now)
