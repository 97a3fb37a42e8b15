"""A plain reader and writer of trace files that shares no code with the core."""

import struct

_MAGIC = 0xC2EF1820


def crc32c_raw(data: bytes) -> int:
    """CRC-32C that starts at 0 and is not inverted."""
    register = 0
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register


def write(records: list[tuple[int, int, int]], *, padding: bytes = bytes(3)) -> bytes:
    """A trace of reads: layer, offset, length."""
    body = b"".join(
        b"R" + padding + struct.pack("<IQq", layer, length, offset) for layer, offset, length in records
    )
    return struct.pack("<IIQII", _MAGIC, 0, len(body), crc32c_raw(body), 0) + body


def read(data: bytes) -> list[tuple[int, int, int]]:
    """The reads in a trace, all of which is checked."""
    magic, _, length, checksum, _ = struct.unpack_from("<IIQII", data)
    body = data[24:]
    assert (magic, length, checksum) == (_MAGIC, len(body), crc32c_raw(body))
    records = []
    for at in range(0, length, 24):
        operation, padding, layer, count, offset = struct.unpack_from("<c3sIQq", body, at)
        assert (operation, padding) == (b"R", bytes(3))
        records.append((layer, offset, count))
    return records
