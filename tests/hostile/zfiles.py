"""Compressed layers that lie: about their sizes, their jump tables, what their blocks unpack to."""

import struct
from collections.abc import Callable
from typing import Any

import zstandard

from tests.hostile.case import Case, Place, refused
from tests.ref import zfile_ref as ref

BLOCK = 4096
PLAIN = bytes(range(256)) * 64
TEXT = b"overlaybd " * 2000


def packed(blocks: list[bytes], *, plain: int, lengths: list[int] | None = None, **index: Any) -> bytes:
    """A zfile of stored blocks as they are given; `lengths` and `index` say something else than the truth.

    `index`: `offset`, `entries`, `algo`, `block`, and `table`, which is its bytes.
    """
    body = b"".join(blocks)
    told = lengths if lengths is not None else [len(block) for block in blocks]
    table = index.get("table", struct.pack(f"<{len(told)}I", *told))
    where = (
        index.get("offset", ref.HEADER + len(body)),
        index.get("entries", len(told)),
        plain,
        ref.crc(table),
    )
    algo, block = index.get("algo", ref.LZ4), index.get("block", BLOCK)
    head = ref.encode(ref.FIRST, block, algo, True, (0, 0, 0, 0))
    return head + body + bytes(table) + ref.encode(ref.TRAILER, block, algo, True, where)


def summed(stored: bytes) -> bytes:
    """A block with its right checksum."""
    return stored + struct.pack("<I", ref.crc(stored, ref.BLOCK_START))


def bomb_lz4(size: int) -> bytes:
    """An LZ4 block of zeros: a byte for each 255."""
    return b"\x1f\0\1\0" + b"\xff" * (size // 255) + b"\0" + b"\x50" + bytes(5)


def bomb_zstd(size: int) -> bytes:
    """A zstd frame of zeros."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(bytes(size))


def whole(blocks: int = 4) -> list[bytes]:
    """Blocks as they should be."""
    return [summed(ref.pack(PLAIN[:BLOCK], ref.LZ4)) for _ in range(blocks)]


def field(at: int, value: int, form: str = "<Q") -> Callable[[], bytes]:
    """A trailer with another value at a place, and a right digest."""

    def make() -> bytes:
        data = bytearray(packed(whole(), plain=4 * BLOCK))
        trailer = data[-ref.HEADER :]
        struct.pack_into(form, trailer, at, value)
        trailer[28:32] = struct.pack("<I", ref.crc(bytes(trailer[:28]) + bytes(4) + bytes(trailer[32:])))
        return bytes(data[: -ref.HEADER] + trailer)

    return make


def no_header() -> bytes:
    """A trailer alone."""
    return ref.encode(ref.TRAILER, BLOCK, ref.LZ4, True, (0, 1 << 30, 1 << 60, 0))


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "2^40 blocks": (lambda: packed(whole(), plain=1 << 52, entries=1 << 40), "limit"),
    "2^64-1 blocks": (field(48, (1 << 64) - 1), "limit"),
    "10^9 blocks in 3 KiB": (lambda: packed(whole(), plain=10**9 * BLOCK, entries=10**9), "corrupt"),
    "of 2^63 bytes": (field(56, 1 << 63), "corrupt"),
    "of 2^64-1 bytes": (field(56, (1 << 64) - 1), "corrupt"),
    "jump table beyond its end": (lambda: packed(whole(), plain=4 * BLOCK, offset=1 << 40), "corrupt"),
    "jump table at 2^64-1": (lambda: packed(whole(), plain=4 * BLOCK, offset=(1 << 64) - 1), "corrupt"),
    "jump table over the header": (lambda: packed(whole(), plain=4 * BLOCK, offset=0), "corrupt"),
    "blocks that overlap the jump table": (
        lambda: packed(whole(), plain=4 * BLOCK, lengths=[60_000] * 4),
        "corrupt",
    ),
    "blocks of 4 GiB": (lambda: packed(whole(), plain=4 * BLOCK, lengths=[(1 << 32) - 1] * 4), "corrupt"),
    "blocks of nothing": (lambda: packed([b""] * 4, plain=4 * BLOCK), "corrupt"),
    "blocks of only a checksum": (lambda: packed([summed(b"")] * 4, plain=4 * BLOCK), "corrupt"),
    "LZ4 bomb": (lambda: packed([summed(bomb_lz4(16 << 20))], plain=BLOCK), "corrupt"),
    "zstd bomb": (lambda: packed([summed(bomb_zstd(64 << 20))], plain=BLOCK, algo=ref.ZSTD), "corrupt"),
    "LZ4 that ends within": (lambda: packed([summed(b"\xf0" + b"\xff" * 40)], plain=BLOCK), "corrupt"),
    "LZ4 from before the start": (lambda: packed([summed(b"\x10a\xff\xff" * 9)], plain=BLOCK), "corrupt"),
    "wrong checksums": (lambda: packed([b"1234" * 9] * 4, plain=4 * BLOCK), "checksum"),
    "blocks of 2^31 bytes": (lambda: packed(whole(), plain=4 * BLOCK, block=1 << 31), "unsupported"),
    "blocks of 0 bytes": (lambda: packed(whole(), plain=4 * BLOCK, block=0), "unsupported"),
    "blocks of 3 bytes": (lambda: packed(whole(), plain=4 * BLOCK, block=3), "unsupported"),
    "another algorithm": (lambda: packed(whole(), plain=4 * BLOCK, algo=200), "unsupported"),
    "a header and nothing": (lambda: ref.encode(ref.FIRST, BLOCK, ref.LZ4, True, (0, 0, 0, 0)), "corrupt"),
    "more blocks than bytes": (lambda: packed(whole(), plain=1), "corrupt"),
    "fewer blocks than bytes": (lambda: packed(whole(), plain=1 << 30), "corrupt"),
}


def extract(make: Callable[[], bytes]) -> Callable[[Place], list[str]]:
    """Extracts it."""

    def command(place: Place) -> list[str]:
        return ["overlaybd-zfile", "-x", place.file("in", make()), str(place.home / "plain")]

    return command


def verify(make: Callable[[], bytes]) -> Callable[[Place], list[str]]:
    """Reads it as a layer of an image."""

    def command(place: Place) -> list[str]:
        lower = {"file": place.file("layer", make())}
        return ["obd", "verify", place.json("image.json", {"lowers": [lower]})]

    return command


def nothing_is_left(place: Place) -> None:
    """No output, half or whole."""
    assert not list(place.home.glob("*plain*"))


CASES: list[Case] = [
    *(
        refused(f"zfile: {name}: extracted", words, extract(make), also=nothing_is_left)
        for name, (make, words) in FILES.items()
    ),
    *(refused(f"zfile: {name}: as a layer", words, verify(make)) for name, (make, words) in FILES.items()),
    refused("zfile: a trailer that is the header: as a layer", "unsupported", verify(no_header)),
]
