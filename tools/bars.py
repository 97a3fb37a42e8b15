"""Progress of several things at once: a bar for each on a terminal, else a line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Self

from tools.errors import clean, say
from tools.progress import BAR_INTERVAL_S, FIRST_BAR_S, FIRST_LINE_S, LINE_INTERVAL_S, amount, draw, gauge

BAR_WIDTH = 24
# Things under way that are shown; the line for all counts the others.
MAX_BARS = 12


@dataclass(slots=True)
class _Bar:
    total: int
    done: int = 0
    running: bool = False
    ended: bool = False


class Bars:
    """What is done of several things, told by any thread; `tick` shows it, called often by one of them.

    As a context manager it takes the bars off the terminal at the end.
    """

    def __init__(self, what: str) -> None:
        """`what` is being done: "copying"."""
        self.what = what
        self._lock = threading.Lock()
        self._bars: dict[str, _Bar] = {}
        self._start = time.monotonic()
        try:
            self._terminal = sys.stderr.isatty()
        except (AttributeError, ValueError):
            self._terminal = False
        self._next = self._start + (FIRST_BAR_S if self._terminal else FIRST_LINE_S)
        self._drawn = 0

    def update(self, name: str, done: int, total: int, *, running: bool = True, ended: bool = False) -> None:
        """Tells of the thing `name`, in bytes. What has `ended` counts as done."""
        with self._lock:
            bar = self._bars.setdefault(name, _Bar(total))
            bar.done, bar.running, bar.ended = total if ended else done, running, ended

    def tick(self) -> None:
        """Shows how it is, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (BAR_INTERVAL_S if self._terminal else LINE_INTERVAL_S)
        with self._lock:
            bars = dict(self._bars)
            lines = [
                _line(name, bar.done, bar.total)
                for name, bar in bars.items()
                if bar.running and not bar.ended
            ]
        done, total = sum(bar.done for bar in bars.values()), sum(bar.total for bar in bars.values())
        ended = sum(bar.ended for bar in bars.values())
        summary = f"{self.what}: {ended} of {len(bars)} done, {amount(done, total)}"
        if self._terminal:
            self._draw([*lines[:MAX_BARS], summary])
        else:
            say(f"{summary} after {now - self._start:.0f} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._drawn:
            draw(self._up() + "\x1b[J")

    def _draw(self, lines: list[str]) -> None:
        # A line that wraps would leave its second half behind.
        width = _width() - 1
        text = "".join(f"{line[:width]}\x1b[K\n" for line in lines)
        draw(f"{self._up()}{text}\x1b[J")
        self._drawn = len(lines)

    def _up(self) -> str:
        return f"\r\x1b[{self._drawn}A" if self._drawn else "\r"


def _line(name: str, done: int, total: int) -> str:
    share = gauge(done, total, BAR_WIDTH) if total else gauge(1, 1, BAR_WIDTH)  # what is nothing is done
    return f"{clean(name)} {share} {amount(done, total)}"


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
