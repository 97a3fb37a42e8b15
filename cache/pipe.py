"""Ranges of a blob in order, read one at a time or several at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

# A step of a copy: large enough to make a request cheap, small enough to be had in seconds on a slow line.
MIN_STEP_BYTES: Final = 64 << 10
MAX_STEP_BYTES: Final = 4 << 20
_UNIT: Final = 4096
_QUICK_S: Final = 0.25
_SLOW_S: Final = 2.0


class Piece(Protocol):
    """Memory for a step."""

    @property
    def view(self) -> memoryview:
        """All of it."""


P = TypeVar("P", bound=Piece)


class Steps:
    """How much to read at a time: more while that is quick, less when it is slow."""

    def __init__(self, first_bytes: int, bytes_per_s: float = 0) -> None:
        """`bytes_per_s` of a limited rate keeps a step short of a burst; 0 is no limit."""
        most = min(MAX_STEP_BYTES, int(bytes_per_s / 4)) if bytes_per_s > 0 else MAX_STEP_BYTES
        self._most: Final = max(MIN_STEP_BYTES, _rounded(most))
        self._least: Final = min(self._most, max(MIN_STEP_BYTES, _rounded(first_bytes)))
        self.bytes = self._least

    def took(self, count: int, seconds: float) -> None:
        """Learns from a step."""
        if count < self.bytes:
            return
        if seconds < _QUICK_S:
            self.bytes = min(self._most, 2 * self.bytes)
        elif seconds > _SLOW_S:
            self.bytes = max(self._least, _rounded(self.bytes // 2))


def _rounded(count: int) -> int:
    return -(-count // _UNIT) * _UNIT


def in_order(
    pool: ThreadPoolExecutor,
    read: Callable[[memoryview, int], int],
    start: int,
    size: int,
    take: Callable[[], P],
    depth: int,
) -> Iterator[tuple[P, int, int]]:
    """Reads `start` to `size` with up to `depth` reads under way; gives (piece, count, offset) in order.

    Whoever gets a piece gives it back to where `take` has it from. Ending early waits for what is under way.
    """
    waiting: deque[tuple[Future[int], P, int, int]] = deque()
    try:
        at = start
        while at < size or waiting:
            while at < size and len(waiting) < depth:
                piece = take()
                count = min(len(piece.view), size - at)
                waiting.append((pool.submit(read, piece.view[:count], at), piece, count, at))
                at += count
            future, piece, count, offset = waiting.popleft()
            future.result()
            yield piece, count, offset
    finally:
        for future, *_ in waiting:
            future.cancel()
        for future, *_ in waiting:
            if not future.cancelled():
                future.exception()
