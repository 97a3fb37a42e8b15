"""What a device may read as, sector by sector, as a script says before and after each thing it does."""

from __future__ import annotations

import random
import struct
from typing import Final

SECTOR: Final = 512
# What a sector holds: zeros, what the layer below has, or the number of a write.
ZEROS: Final = -1
BASE: Final = 0

Event = list[str | int]


def bytes_of(content: int, sector: int, base: bytes) -> bytes:
    """The bytes of a sector."""
    if content == ZEROS:
        return bytes(SECTOR)
    if content == BASE:
        return base[sector * SECTOR :][:SECTOR].ljust(SECTOR, b"\0")
    return struct.pack("<QQ", content, sector) * (SECTOR // 16)


def write_of(content: int, first: int, count: int) -> bytes:
    """The bytes of a write to sectors."""
    return b"".join(bytes_of(content, sector, b"") for sector in range(first, first + count))


def make_base(size_bytes: int) -> bytes:
    """A disk of which some parts compress, some do not and some are zeros."""
    numbers = random.Random(6)
    parts = []
    for number in range(size_bytes // 4096):
        kind = number % 4
        parts.append(
            numbers.randbytes(4096)
            if kind < 2
            else bytes([number % 256]) * 4096
            if kind == 2
            else bytes(4096)
        )
    return b"".join(parts)


class Model:
    """Fed with the events of a run, in order; events without meaning here are passed over.

    `["write", first, count, content]`: a write begins, likewise `["zero", first, count, ZEROS]`;
    `["done", first, count, content]`: it was acknowledged. `["flush"]`: one begins, `["flushed"]`: it did.
    `["made", name]`: a command ended well that makes this. `["removing", name]`: it may go.
    """

    def __init__(self, size_bytes: int, base: bytes) -> None:
        self._base: Final = base
        self.sectors: Final = size_bytes // SECTOR
        # What a sector may be now, and, after a loss of power, what it was or became since the last flush.
        self._now: list[set[int]] = [{BASE} for _ in range(self.sectors)]
        self._since: list[set[int]] = [{BASE} for _ in range(self.sectors)]
        # The bytes where only one thing is possible: nearly everywhere.
        self._sure: Final = [bytes_of(BASE, sector, base) for sector in range(self.sectors)]
        self._at_flush: list[set[int]] = []
        self.made: Final[set[str]] = set()
        self._after: list[set[int]] = []

    def feed(self, event: Event) -> None:
        """Takes one event."""
        what = event[0]
        if what in ("write", "zero", "done"):
            first, count, content = (int(word) for word in event[1:4])
            for sector in range(first, first + count):
                if what == "done":
                    self._now[sector] = {content}
                    self._sure[sector] = bytes_of(content, sector, self._base)
                else:
                    self._now[sector] = self._now[sector] | {content}
                    self._sure[sector] = b""
                    self._since[sector] = self._since[sector] | {content}
                    if self._after:
                        self._after[sector] = self._after[sector] | {content}
        elif what == "flush":
            self._at_flush = list(self._now)
            self._after = [set() for _ in range(self.sectors)]
        elif what == "flushed":
            self._since = [one | other for one, other in zip(self._at_flush, self._after, strict=True)]
            self._after = []
        elif what == "made":
            self.made.add(str(event[1]))
        elif what == "removing":
            self.made.discard(str(event[1]))

    def lose_power(self) -> None:
        """Whatever was or became possible since the last flush is possible now, also by halves."""
        for sector, since in enumerate(self._since):
            self._now[sector] = self._since[sector] = set(since)
            self._sure[sector] = bytes_of(next(iter(since)), sector, self._base) if len(since) == 1 else b""
        self._at_flush, self._after = [], []

    def settle(self, data: bytes) -> None:
        """The whole device reads as `data`: nothing else is possible any more."""
        for sector in range(self.sectors):
            found = data[sector * SECTOR :][:SECTOR]
            same = {each for each in self._now[sector] if found == bytes_of(each, sector, self._base)}
            self._now[sector] = self._since[sector] = same
            self._sure[sector] = found

    def wrong(self, data: bytes, first: int = 0) -> str:
        """What is wrong with bytes that were read from a sector on; "" for nothing."""
        if data == b"".join(self._sure[first : first + len(data) // SECTOR]):
            return ""
        for number in range(len(data) // SECTOR):
            sector = first + number
            found = data[number * SECTOR :][:SECTOR]
            possible = self._now[sector]
            if not any(found == bytes_of(content, sector, self._base) for content in possible):
                content, of = struct.unpack("<QQ", found[:16])
                said = "zeros" if found == bytes(SECTOR) else f"write {content} of sector {of}"
                return f"sector {sector} reads as {said}, possible are {sorted(possible)}"
        return ""
