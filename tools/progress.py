"""Progress of long work on stderr: a bar on a terminal, else a line now and then, nothing for short work."""

from __future__ import annotations

import sys
import time

from tools.errors import say

FIRST_BAR_S = 0.5
BAR_INTERVAL_S = 0.1
FIRST_LINE_S = 5.0
LINE_INTERVAL_S = 5.0
BAR_WIDTH = 30


class Progress:
    """A callable `progress(done, total)`, both in bytes; total 0 means that nobody knows it.

    Give it to every long function of the core: being called also lets Ctrl-C and SIGTERM through.
    Used as a context manager it takes the bar off the terminal at the end.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._start = time.monotonic()
        try:
            self._terminal = sys.stderr.isatty()
        except (AttributeError, ValueError):
            self._terminal = False
        self._next = self._start + (FIRST_BAR_S if self._terminal else FIRST_LINE_S)
        self._drawn = False

    def __call__(self, done: int, total: int) -> None:
        """Shows `done` of `total`, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (BAR_INTERVAL_S if self._terminal else LINE_INTERVAL_S)
        if self._terminal:
            self._draw(done, total)
        else:
            say(f"{self.what}: {amount(done, total)} after {now - self._start:.0f} s")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._drawn:
            draw("\r\x1b[K")

    def _draw(self, done: int, total: int) -> None:
        draw(f"\r{self.what} {gauge(done, total, BAR_WIDTH)} {amount(done, total)}\x1b[K")
        self._drawn = True


def draw(text: str) -> None:
    """Puts text on the terminal, if there still is one."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def gauge(done: int, total: int, width: int) -> str:
    """`[###...]`, empty if nobody knows the total."""
    full = width * min(done, total) // total if total else 0
    return f"[{'#' * full}{'.' * (width - full)}]"


def amount(done: int, total: int) -> str:
    """`12.3 of 45.6 MiB (27 %)`, or without what is not known."""
    mib = 1 << 20
    if not total:
        return f"{done / mib:.1f} MiB"
    return f"{done / mib:.1f} of {total / mib:.1f} MiB ({min(100, done * 100 // total)} %)"
