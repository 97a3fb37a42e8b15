"""Reads LSMT files the slow and obvious way: what the core writes is checked against this.

Written from the format's description alone, sharing nothing with the core: a device is a plain list of
sectors, and every reader here fills it in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SECTOR = 512
BLOCK = 4096
PADDING_OFFSET = (1 << 50) - 1
MAGIC = bytes.fromhex("4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a")
LAYOUT = struct.Struct("<24sIIQQQ37s37sHBB256s")


@dataclass(frozen=True)
class Header:
    """A header or trailer; numbers as in the file."""

    size: int
    flags: int
    index_offset: int
    index_size: int
    virtual_size: int
    uuid: str
    parent_uuid: str
    version: int
    sub_version: int
    user_tag: bytes


@dataclass(frozen=True)
class Entry:
    """An index entry, in sectors."""

    offset: int
    length: int
    moffset: int
    zeroed: bool
    tag: int

    @property
    def is_padding(self) -> bool:
        """Whether readers must pass over it."""
        return self.offset == PADDING_OFFSET


Device = list[bytes | None]
"""One item a sector: its bytes, or None where no layer has it."""


def header(block: bytes) -> Header:
    """Decodes a block of 4096 bytes; raises ValueError without the magic."""
    magic, size, flags, index_offset, index_size, virtual_size, uuid, parent, _, version, sub, tag = (
        LAYOUT.unpack(block[: LAYOUT.size])
    )
    if magic != MAGIC:
        raise ValueError("no LSMT magic")
    uuid, parent = (text.split(b"\0")[0].decode("ascii") for text in (uuid, parent))
    tag = tag.rstrip(b"\0")
    return Header(size, flags, index_offset, index_size, virtual_size, uuid, parent, version, sub, tag)


def entries(raw: bytes) -> list[Entry]:
    """All whole entries in some bytes, padding included."""
    found = []
    for at in range(0, len(raw) - len(raw) % 16, 16):
        first, second = struct.unpack_from("<QQ", raw, at)
        bits = (first & (1 << 50) - 1, first >> 50, second & (1 << 55) - 1, bool(second >> 55 & 1))
        found.append(Entry(*bits, second >> 56))
    return found


def trailer(layer: bytes) -> Header:
    """The trailer of a finished layer."""
    found = header(layer[-BLOCK:])
    assert found.flags & 0x07 == 0x06, "not a trailer of a finished layer"
    return found


def index(layer: bytes) -> list[Entry]:
    """The index of a finished layer, padding included, after checking every rule that it must keep."""
    first, last = header(layer), trailer(layer)
    assert first.flags & 0x03 == 0x03
    end = last.index_offset + 16 * last.index_size
    assert last.index_size <= 1_000_000 and last.index_offset % SECTOR == 0 and end <= len(layer) - BLOCK
    found = entries(layer[last.index_offset : end])
    limit = last.index_offset // SECTOR
    covered = 0
    for entry in found:
        if entry.is_padding:
            continue
        assert entry.length > 0 and entry.offset >= covered, f"{entry} after sector {covered}"
        covered = entry.offset + entry.length
        stored = 0 if entry.zeroed else entry.length
        assert entry.moffset >= 8 and entry.moffset + stored <= limit, f"{entry} outside the data"
    return found


def put(device: Device, log: Iterable[Entry], data: bytes) -> None:
    """Carries out entries in order; a later one wins. What lies beyond the device is left out."""
    for entry in log:
        if entry.is_padding:
            continue
        for n in range(entry.length):
            if entry.offset + n >= len(device):
                break
            at = (entry.moffset + n) * SECTOR
            device[entry.offset + n] = bytes(SECTOR) if entry.zeroed else data[at : at + SECTOR]


def device_of_layers(layers: Sequence[bytes], size: int) -> Device:
    """Finished layers, bottom first, as a device of `size` bytes."""
    device: Device = [None] * (size // SECTOR)
    for layer in layers:
        put(device, index(layer), layer)
    return device


def device_of_pair(data: bytes, log: bytes, below: Device | None = None) -> Device:
    """A log-structured writable layer, alone or over a device, which stays as it is."""
    first = header(log)
    assert header(data).flags & 0x13 == 0x03 and first.flags & 0x07 == 0x01 and first.index_offset == BLOCK
    device: Device = list(below) if below is not None else [None] * (first.virtual_size // SECTOR)
    put(device, entries(log[BLOCK:]), data)
    return device


def flat(device: Device) -> bytes:
    """The bytes of a device."""
    return b"".join(sector or bytes(SECTOR) for sector in device)
