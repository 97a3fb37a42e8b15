"""Sectors that tell what they are, and the ledger of what each of them may hold."""

import random
import struct
from array import array

SECTOR = 512
BASE = 0  # the generation of what the lowers hold
ZERO = 0xFFFFFFFF  # the generation of what was discarded, or never written

_HEAD = struct.Struct("<IIQ")
_REST = SECTOR - _HEAD.size
_ZEROS = bytes(SECTOR)
# What follows a head is a piece of this: no codec makes it smaller, and it is there without computing.
_NOISE = random.Random(0).randbytes(65521 + _REST)


class WrongBytes(AssertionError):
    """A sector holds what it must not."""


def stamp(seed: int, sector: int, generation: int) -> bytes:
    """What a sector holds after the write of that generation."""
    if generation == ZERO:
        return _ZEROS
    at = (sector * 7919 + generation * 104729 + seed) % 65521
    return _HEAD.pack(seed, generation, sector) + _NOISE[at : at + _REST]


def stamps(seed: int, first: int, count: int, generation: int) -> bytes:
    """Sectors `first` to `first + count` after one write."""
    return b"".join([stamp(seed, sector, generation) for sector in range(first, first + count)])


class Ledger:
    """What sectors `first` to `first + count` of a device may hold.

    A write that is acknowledged counts from then on. One that failed leaves each of its sectors in doubt: old
    or new, and once it has been read what was read. One thread uses a ledger.
    """

    def __init__(self, seed: int, first: int, count: int, generation: int = BASE) -> None:
        self.seed, self.first, self.count = seed, first, count
        self.checked_bytes = 0
        self._now = array("I", [generation]) * count
        self._doubts: dict[int, set[int]] = {}

    def wrote(self, first: int, count: int, generation: int) -> None:
        """These sectors were written, as is acknowledged."""
        self._now[first - self.first : first - self.first + count] = array("I", [generation]) * count
        if self._doubts:
            for sector in range(first, first + count):
                self._doubts.pop(sector, None)

    def may_have_written(self, first: int, count: int, generation: int) -> None:
        """The write of these sectors failed."""
        for sector in range(first, first + count):
            self._doubts.setdefault(sector, {self._now[sector - self.first]}).add(generation)

    def check(self, first: int, data: bytes | memoryview) -> None:
        """Holds what was read from sector `first` on against the ledger. Raises `WrongBytes`."""
        count = len(data) // SECTOR
        now = self._now[first - self.first : first - self.first + count]
        expected = b"".join([stamp(self.seed, first + at, generation) for at, generation in enumerate(now)])
        if expected != data:
            for at in range(count):
                found = bytes(data[at * SECTOR : (at + 1) * SECTOR])
                if found != expected[at * SECTOR : (at + 1) * SECTOR]:
                    self._settle(first + at, found)
        elif self._doubts:
            for sector in range(first, first + count):
                self._doubts.pop(sector, None)
        self.checked_bytes += len(data)

    def _settle(self, sector: int, found: bytes) -> None:
        """A sector holds something else than was acknowledged last: that must be what is in doubt."""
        for generation in self._doubts.pop(sector, ()):
            if found == stamp(self.seed, sector, generation):
                self._now[sector - self.first] = generation
                return
        raise WrongBytes(
            f"sector {sector}: generation {self._now[sector - self.first]:#x} was acknowledged, "
            f"found {_said(found)}"
        )


def _said(data: bytes) -> str:
    """What a sector says of itself."""
    if data == _ZEROS:
        return "zeros"
    seed, generation, sector = _HEAD.unpack_from(data)
    if data == stamp(seed, sector, generation):
        return f"seed {seed}, generation {generation:#x} of sector {sector}"
    return f"{data[:32].hex()}…"
