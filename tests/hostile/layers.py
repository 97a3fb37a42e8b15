"""LSMT layers and stacks of them that lie about what is where."""

import struct
from collections.abc import Callable, Iterable
from typing import Any

from tests.hostile.case import Case, Place, refused
from tests.ref import lsmt_ref as ref

GIB = 1 << 30


def block(flags: int, offset: int = 0, entries: int = 0, size: int = GIB, **more: Any) -> bytes:
    """A header or trailer."""
    uuid = more.get("uuid", b"")
    tag = more.get("tag", b"")
    fields = (ref.MAGIC, more.get("length", 390), flags, offset, entries, size, uuid, uuid, 0, 1, 1, tag)
    return ref.LAYOUT.pack(*fields).ljust(ref.BLOCK, b"\0")


def entry(offset: int, length: int, moffset: int, *, zeroed: bool = False, tag: int = 0) -> bytes:
    """An index entry; numbers may be as large as their bits."""
    return struct.pack("<QQ", offset | length << 50, moffset | zeroed << 55 | tag << 56)


def layer(
    segments: Iterable[bytes] = (), *, data: bytes = bytes(ref.BLOCK), header: bytes = b"", **told: Any
) -> bytes:
    """A committed layer; `told` is what its trailer says in place of the truth."""
    index = b"".join(segments)
    start = ref.BLOCK + len(data)
    told = {"offset": start, "entries": len(index) // 16, **told}
    return (header or block(0x07)) + data + index + block(0x06, **told)


WHOLE = [entry(0, 8, 8)]
LAYERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "10^6+1 entries": (lambda: layer(WHOLE, entries=1_000_001), "limit"),
    "2^64-1 entries": (lambda: layer(WHOLE, entries=(1 << 64) - 1), "limit"),
    "2^60 entries, whose bytes overflow to 0": (lambda: layer(WHOLE, entries=1 << 60), "limit"),
    "10^6 entries in 12 KiB": (lambda: layer(WHOLE, entries=1_000_000), "corrupt"),
    "index beyond its end": (lambda: layer(WHOLE, offset=1 << 40), "corrupt"),
    "index at 2^64-512": (lambda: layer(WHOLE, offset=(1 << 64) - 512), "corrupt"),
    "index over the header": (lambda: layer(WHOLE, offset=0), "corrupt"),
    "index at an odd place": (lambda: layer(WHOLE, offset=8193), "corrupt"),
    "entries that overlap": (lambda: layer([entry(0, 8, 8), entry(4, 8, 8)]), "corrupt"),
    "entries backwards": (lambda: layer([entry(64, 8, 8), entry(0, 8, 8)]), "corrupt"),
    "an entry beyond the data": (lambda: layer([entry(0, 8, 1 << 40)]), "corrupt"),
    "an entry at 2^55-1": (lambda: layer([entry(0, 16383, (1 << 55) - 1)]), "corrupt"),
    "an entry over the header": (lambda: layer([entry(0, 8, 0)]), "corrupt"),
    "an entry over the index": (lambda: layer([entry(0, 16, 8)]), "corrupt"),
    "an entry of nothing": (lambda: layer([entry(0, 0, 8)]), "corrupt"),
    "no trailer": (lambda: block(0x07) + bytes(8192), "corrupt"),
    "a trailer alone": (lambda: block(0x06, 4096, 0), "corrupt"),
    "header as trailer": (lambda: block(0x07) + bytes(4096) + block(0x07), "corrupt"),
    "cut in the trailer": (lambda: layer(WHOLE)[:-1], "corrupt"),
    "a word": (lambda: b"x", ""),
    "nothing": (lambda: b"", ""),
}


def command(name: str, make: Callable[[], bytes]) -> Callable[[Place], list[str]]:
    """Has a command read it as the layer of an image."""

    def argv(place: Place) -> list[str]:
        config = {"lowers": [{"file": place.file("layer", make())}]}
        words = [place.json("image.json", config)]
        if name == "overlaybd-merge":
            return [name, *words, str(place.home / "merged")]
        return ["obd", name, *words, *([str(place.home / "raw")] if name == "export" else [])]

    return argv


def nothing_is_left(place: Place) -> None:
    """No output, half or whole."""
    assert not [path for name in ("merged", "raw") for path in place.home.glob(f"*{name}*")]


CASES: list[Case] = [
    refused(f"LSMT: {name}: {what}", words, command(what, make), also=nothing_is_left)
    for name, (make, words) in LAYERS.items()
    for what in ("verify", "overlaybd-merge")
]
