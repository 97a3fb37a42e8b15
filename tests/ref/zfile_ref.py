"""Reads and writes zfiles the slow and obvious way: what the core does is checked against this.

Written from the format's description alone, sharing nothing with the core: blocks by the `lz4` and
`zstandard` packages, the checksum bit by bit from its polynomial.
"""

from __future__ import annotations

import io
import struct
import tarfile
from dataclasses import dataclass

import lz4.block  # type: ignore[import-untyped]
import zstandard

HEADER = 512
MAGIC = b"ZFile\x00\x01\x00" + b"tuji.yyf@Alibaba"
LAYOUT = struct.Struct("<24sIIQQQQIIIBBBBIIB7x")
LZ4, ZSTD = 1, 2
FIRST, TRAILER, FINAL = 0x13, 0x16, 0x1B
BLOCK_START = 100007

# What upstream's reader can take: a stored block, and the sum of all stored blocks of 64 KiB but the last.
STORED_LIMIT = 65536
GROUP_BYTES = 65536
GROUP_LIMIT = 65535


def _table() -> list[int]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        entries.append(value)
    return entries


TABLE = _table()


def crc(data: bytes, register: int = 0) -> int:
    """CRC-32C as a bare register: neither start nor result is inverted."""
    for byte in data:
        register = (register >> 8) ^ TABLE[(register ^ byte) & 0xFF]
    return register


@dataclass(frozen=True)
class Header:
    """A header or trailer; numbers as in the file."""

    size: int
    digest: int
    flags: int
    index_offset: int
    index_size: int
    original_file_size: int
    index_crc: int
    block_size: int
    algo: int
    level: int
    use_dict: int
    dict_size: int
    verify: int
    digest_is_right: bool
    rest_is_zero: bool


def header(block: bytes) -> Header:
    """Decodes a block of 512 bytes; raises ValueError without the magic."""
    fields = LAYOUT.unpack(block[: LAYOUT.size])
    if fields[0] != MAGIC:
        raise ValueError("no magic")
    _, size, digest, flags, index_offset, index_size, original, index_crc, _, block_size, *rest = fields
    algo, level, use_dict, _, _, dict_size, verify = rest
    right = crc(block[:28] + bytes(4) + block[32:]) == digest
    zero = not any(block[LAYOUT.size :])
    return Header(
        size,
        digest,
        flags,
        index_offset,
        index_size,
        original,
        index_crc,
        block_size,
        algo,
        level,
        use_dict,
        dict_size,
        verify,
        right,
        zero,
    )


def encode(flags: int, block_size: int, algo: int, verify: bool, index: tuple[int, int, int, int]) -> bytes:
    """A header or trailer; `index` is offset, entries, plain bytes and checksum of the jump table."""
    offset, entries, original, index_crc = index
    fields = (offset, entries, original, index_crc, 0, block_size, algo, 0, 0, 0, 0, 0, verify)
    block = LAYOUT.pack(MAGIC, 96, 0, flags, *fields).ljust(HEADER, b"\0")
    return block[:28] + struct.pack("<I", crc(block)) + block[32:]


def read(data: bytes) -> bytes:
    """The plain bytes of a zfile as a careful writer makes it; anything else is an AssertionError."""
    first = header(data[:HEADER])
    last = header(data[-HEADER:])
    assert first.flags in (FIRST, FINAL) and last.flags == TRAILER
    for one in (first, last):
        assert one.digest_is_right and one.rest_is_zero and one.size == 96
        assert (one.level, one.use_dict, one.dict_size) == (0, 0, 0)
        assert (one.block_size, one.algo, one.verify) == (last.block_size, last.algo, last.verify)
    index = (last.index_offset, last.index_size, last.original_file_size, last.index_crc)
    found = (first.index_offset, first.index_size, first.original_file_size, first.index_crc)
    assert found == (index if first.flags == FINAL else (0, 0, 0, 0))

    table = data[last.index_offset : -HEADER]
    assert len(table) == 4 * last.index_size and crc(table) == last.index_crc
    lengths = [length for (length,) in struct.iter_unpack("<I", table)]
    check_limits(lengths, last.block_size)
    assert HEADER + sum(lengths) == last.index_offset

    plain = bytearray()
    at = HEADER
    for length in lengths:
        stored = data[at : at + length]
        at += length
        if last.verify:
            stored, checksum = stored[:-4], stored[-4:]
            assert crc(stored, BLOCK_START) == int.from_bytes(checksum, "little")
        expected = min(last.block_size, last.original_file_size - len(plain))
        block = expand(stored, last.algo, expected)
        assert len(block) == expected
        plain += block
    assert len(plain) == last.original_file_size
    return bytes(plain)


def check_limits(lengths: list[int], block_size: int) -> None:
    """Whether upstream's reader can hold these stored blocks; an AssertionError if not."""
    assert all(length <= STORED_LIMIT for length in lengths)
    group = GROUP_BYTES // block_size
    for start in range(0, len(lengths), group):
        assert sum(lengths[start : start + group - 1]) < GROUP_LIMIT


def expand(stored: bytes, algo: int, size: int) -> bytes:
    """One block."""
    if algo == LZ4:
        return bytes(lz4.block.decompress(stored, uncompressed_size=size))
    frame = zstandard.get_frame_parameters(stored)
    assert frame.content_size == size and not frame.has_checksum
    return zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)


def pack(block: bytes, algo: int) -> bytes:
    """One block."""
    if algo == LZ4:
        return bytes(lz4.block.compress(block, store_size=False))
    return zstandard.ZstdCompressor(level=3).compress(block)


def write(plain: bytes, *, algo: int, block_size: int, verify: bool = True, overwrite: bool = False) -> bytes:
    """A zfile of `plain`."""
    blocks = []
    for at in range(0, len(plain), block_size):
        stored = pack(plain[at : at + block_size], algo)
        blocks.append(stored + (struct.pack("<I", crc(stored, BLOCK_START)) if verify else b""))
    table = struct.pack(f"<{len(blocks)}I", *map(len, blocks))
    body = b"".join(blocks)
    index = (HEADER + len(body), len(blocks), len(plain), crc(table))
    first = (FINAL, index) if overwrite else (FIRST, (0, 0, 0, 0))
    return b"".join(
        [
            encode(first[0], block_size, algo, verify, first[1]),
            body,
            table,
            encode(TRAILER, block_size, algo, verify, index),
        ]
    )


def untar(data: bytes) -> bytes:
    """The layer in a tar as upstream wraps it, which any tar reader must understand too."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        (member,) = tar.getmembers()
        file = tar.extractfile(member)
        assert file is not None
        payload = file.read()
    assert (member.name, member.mode & 0o7777, member.uid, member.mtime) == ("overlaybd.commit", 0o644, 0, 0)
    assert (member.uname, member.gname, member.offset_data) == ("root", "root", 1536)
    assert len(data) == -(-(1536 + len(payload)) // 512) * 512 + 1024
    assert not any(data[1536 + len(payload) :])
    return payload
