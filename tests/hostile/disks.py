"""Disks that mean harm: file systems, partition tables and qcow2 images whose fields lie."""

import struct
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import obdcore
from tests.hostile.case import MIB, Case, Place, harmless, refused

SUPER = 1024  # of ext4 and of EROFS
KIB = 1024
SIZE = 4 * MIB

Patch = tuple[int, bytes]


def u16(at: int, number: int) -> Patch:
    """A field of two bytes."""
    return at, struct.pack("<H", number)


def u32(at: int, number: int) -> Patch:
    """One of four."""
    return at, struct.pack("<I", number)


def u64(at: int, number: int) -> Patch:
    """One of eight."""
    return at, struct.pack("<Q", number)


def patched(data: bytes, *patches: Patch) -> bytes:
    """With these bytes in their places."""
    made = bytearray(data)
    for at, new in patches:
        made[at : at + len(new)] = new
    return bytes(made)


@cache
def ext4(_: None = None) -> bytes:
    """A small one, of blocks of a KiB, without checksums: `/dir/file`, `/link`, and `/name`."""
    with tempfile.TemporaryDirectory() as home:
        image = made_of(Path(home))
        options = [
            "-O",
            "^metadata_csum,^64bit,^has_journal,^resize_inode,^dir_index",
            "-I",
            "128",
            "-b",
            "1024",
        ]
        words = ["mkfs.ext4", "-q", *options, "-d", str(Path(home) / "tree"), str(image), str(SIZE // KIB)]
        subprocess.run(words, check=True, capture_output=True)
        return image.read_bytes()


@cache
def erofs(_: None = None) -> bytes:
    """The same tree."""
    with tempfile.TemporaryDirectory() as home:
        image = made_of(Path(home))
        words = ["mkfs.erofs", "-Eforce-inode-extended", str(image), str(Path(home) / "tree")]
        subprocess.run(words, check=True, capture_output=True)
        data = image.read_bytes()
        # Without its checksum, which would tell.
        return patched(data, u32(SUPER + 8, struct.unpack_from("<I", data, SUPER + 8)[0] & ~1))


def made_of(home: Path) -> Path:
    """A tree; where its image is to be."""
    (home / "tree/dir").mkdir(parents=True)
    (home / "tree/dir/file").write_bytes(b"content" * 1000)
    (home / "tree/link").symlink_to("dir/file")
    (home / "tree/name").write_bytes(b"n")
    return home / "image"


def inode(number: int) -> int:
    """Where an inode of the ext4 is."""
    (table,) = struct.unpack_from("<I", ext4(), 2 * KIB + 8)
    return int(table) * KIB + (number - 1) * 128


def block_of(number: int) -> int:
    """Where the first block of an inode is, by its extent."""
    return int(struct.unpack_from("<I", ext4(), inode(number) + 40 + 20)[0]) * KIB


def entry(name: bytes) -> int:
    """Where the entry of that name in the root is."""
    root = block_of(2)
    return ext4().index(bytes([len(name)]), root + 24) if not name else ext4().index(name, root) - 8


def erofs_root() -> int:
    """Where the root's inode is."""
    (number,) = struct.unpack_from("<H", erofs(), SUPER + 14)
    (meta,) = struct.unpack_from("<I", erofs(), SUPER + 40)
    return int(meta) * 4096 + int(number) * 32


def listed(make: Callable[[], bytes], *words: str) -> Callable[[Place], list[str]]:
    """Has all files in it listed."""

    def command(place: Place) -> list[str]:
        raw, path = Path(place.file("raw", make())), place.home / "layer"
        with raw.open("rb") as source, path.open("xb") as target:
            obdcore.lsmt_import(source.fileno(), raw.stat().st_size // 512 * 512, target.fileno())
        return ["obd", "ls", "-lR", *words, str(path)]

    return command


ROOT = 2
INCOMPAT = SUPER + 0x60
EXT4: dict[str, tuple[Callable[[], list[Patch]], str | None]] = {
    "blocks of 2^42 bytes": (lambda: [u32(SUPER + 0x18, 32)], "corrupt"),
    "2^32-1 blocks": (lambda: [u32(SUPER + 4, 0xFFFFFFFF)], None),
    "2^32-1 inodes": (lambda: [u32(SUPER, 0xFFFFFFFF)], None),
    "no blocks in a group": (lambda: [u32(SUPER + 0x20, 0)], None),
    "no inodes in a group": (lambda: [u32(SUPER + 0x28, 0)], "corrupt"),
    "inodes of 0 bytes": (lambda: [u16(SUPER + 0x58, 0)], "corrupt"),
    "inodes of 65535 bytes": (lambda: [u16(SUPER + 0x58, 0xFFFF)], "corrupt"),
    "features of the future": (lambda: [u32(INCOMPAT, 0xFFFFFFFF)], "unsupported"),
    "a table of inodes beyond the end": (lambda: [u32(2 * KIB + 8, 0xFFFFFFF0)], "corrupt"),
    "a root that is a file": (lambda: [u16(inode(ROOT), 0o100644)], "corrupt"),
    "a root of 2^63 bytes": (lambda: [u32(inode(ROOT) + 0x6C, 0x80000000)], "limit"),
    "extents 65535 deep": (lambda: [u16(inode(ROOT) + 40 + 6, 0xFFFF)], "corrupt"),
    "extents that are their own index": (
        lambda: [
            (inode(ROOT) + 40, struct.pack("<HHHHI", 0xF30A, 1, 4, 5, 0)),
            u32(inode(ROOT) + 56, block_of(ROOT) // KIB),
        ],
        "corrupt",
    ),
    "65535 extents in an inode": (lambda: [u16(inode(ROOT) + 40 + 2, 0xFFFF)], "corrupt"),
    "an extent beyond the end": (lambda: [u32(inode(ROOT) + 60, 0xFFFFFF00)], "corrupt"),
    "an entry of no length": (lambda: [u16(entry(b"name") + 4, 0)], "corrupt"),
    "an entry beyond its block": (lambda: [u16(entry(b"name") + 4, 0xFFFC)], "corrupt"),
    "a name with zeros": (lambda: [(entry(b"name") + 6, b"\xff")], None),
    "an inode that is not there": (lambda: [u32(entry(b"name"), 0xFFFFFFFF)], "corrupt"),
    "a directory that is its own root": (lambda: [u32(entry(b"dir"), ROOT)], "corrupt"),
    "names that lead out": (lambda: [(entry(b"name") + 8, b"../x")], None),
    "names that are escapes": (lambda: [(entry(b"name") + 8, b"\x1b[2J")], None),
}
EROFS: dict[str, tuple[Callable[[], list[Patch]], str | None]] = {
    "blocks of 2^255 bytes": (lambda: [(SUPER + 12, b"\xff")], "corrupt"),
    "a root that is not there": (lambda: [u16(SUPER + 14, 0xFFFF)], "corrupt"),
    "metadata beyond the end": (lambda: [u32(SUPER + 40, 0xFFFFFFF0)], "corrupt"),
    "features of the future": (lambda: [u32(SUPER + 80, 0xFFFFFFFF)], "unsupported"),
    "a root of 2^63 bytes": (lambda: [u64(erofs_root() + 8, 1 << 63)], "limit"),
    "a root of a format that is not there": (lambda: [u16(erofs_root(), 0xFFFF)], "unsupported"),
    "a root that is a file": (lambda: [u16(erofs_root() + 4, 0o100644)], "corrupt"),
    "a root of more than it has": (lambda: [u64(erofs_root() + 8, MIB)], "corrupt"),
    "attributes of 256 KiB": (lambda: [u16(erofs_root() + 2, 0xFFFF)], "corrupt"),
    "directories backwards": (lambda: [u16(erofs_dirents() + 8, 0)], "corrupt"),
    "names beyond their block": (lambda: [u16(erofs_dirents() + 12 + 8, 0xFFFF)], "corrupt"),
}


def erofs_dirents() -> int:
    """Where the entries of the root are: behind its inode."""
    (form,) = struct.unpack_from("<H", erofs(), erofs_root())
    assert form >> 1 & 7 == 2, form
    return erofs_root() + (64 if form & 1 else 32)


def mbr(*entries: tuple[int, int, int]) -> bytes:
    """A sector with partitions: type, first sector, sectors."""
    table = b"".join(struct.pack("<4xB3xII", *each) for each in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def disk(first: bytes) -> Callable[[], bytes]:
    """A disk of so many sectors more."""
    return lambda: first.ljust(SIZE, b"\0")


def gpt(entries: int, size: int, at: int = 2, *, right: bool = True) -> bytes:
    """The first sectors of one; with a wrong checksum of the table."""
    import zlib

    head = struct.pack(
        "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, SIZE // 512 - 1, 34, SIZE // 512 - 34,
        b"d" * 16, at, entries, size, 0,
    )  # fmt: skip
    crc = zlib.crc32(head) if right else 1
    return mbr((0xEE, 1, SIZE // 512 - 1)) + patched(head, u32(16, crc)).ljust(512, b"\0")


TABLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a partition beyond the end": (disk(mbr((0x83, 2048, 0xFFFFFFFF))), ""),
    "a partition at the end of numbers": (disk(mbr((0x83, 0xFFFFFFFF, 0xFFFFFFFF))), ""),
    "an extended one that is itself": (disk(mbr((0x05, 0, 8192))), ""),
    "a chain that comes back": (disk(mbr((0x05, 1, 8000)) + mbr((0x83, 1, 1), (0x05, 0, 8000))), ""),
    "2^32-1 entries": (disk(gpt(0xFFFFFFFF, 128)), ""),
    "entries of 0 bytes": (disk(gpt(128, 0)), ""),
    "entries of 2^31 bytes": (disk(gpt(128, 1 << 31)), ""),
    "entries at the end of numbers": (disk(gpt(128, 128, (1 << 64) - 1)), ""),
    "a checksum that is wrong": (disk(gpt(128, 128, right=False)), ""),
}


def qcow2(*patches: Patch, tables: bytes = b"") -> Callable[[], bytes]:
    """An image of a MiB with nothing in it, and lies; numbers are big-endian."""
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, MIB, 0, 1, 3 << 16, 1 << 16, 1, 0, 0, 0, 0, 0, 4, 104
    )
    return lambda: patched((head.ljust(3 << 16, b"\0") + tables).ljust(5 << 16, b"\0"), *patches)


def be(at: int, number: int, size: int = 8) -> Patch:
    """A field of a qcow2."""
    return at, number.to_bytes(size, "big")


QCOW2: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "clusters of 2^32-1 bits": (qcow2(be(20, 0xFFFFFFFF, 4)), "unsupported"),
    "clusters of 0 bits": (qcow2(be(20, 0, 4)), "unsupported"),
    "2^64-1 bytes": (qcow2(be(24, (1 << 64) - 1)), "limit"),
    "2^62 bytes": (qcow2(be(24, 1 << 62)), "limit"),
    "2^32-1 tables": (qcow2(be(36, 0xFFFFFFFF, 4)), None),
    "tables beyond the end": (qcow2(be(40, 1 << 62)), "corrupt"),
    "tables at an odd place": (qcow2(be(40, 12345)), "corrupt"),
    "a table beyond the end": (qcow2(tables=((1 << 55) | 1 << 63).to_bytes(8, "big")), "corrupt"),
    "a table that is its own": (qcow2(tables=((3 << 16) | 1 << 63).to_bytes(8, "big")), None),
    "a header of 2^32-1 bytes": (qcow2(be(100, 0xFFFFFFFF, 4)), "corrupt"),
    "features of the future": (qcow2(be(72, 1 << 63)), "unsupported"),
    "encryption": (qcow2(be(32, 1, 4)), "unsupported"),
    "a backing file of 2^32-1 letters": (qcow2(be(8, 104), be(16, 0xFFFFFFFF, 4)), "unsupported"),
}


def imported(make: Callable[[], bytes]) -> Callable[[Place], list[str]]:
    """Has it made a layer."""
    return lambda place: ["obd", "import", place.file("in.qcow2", make()), str(place.home / "made")]


def backed(place: Place) -> list[str]:
    """A disk upon a file that only it names."""
    name = str(place.decoy).encode()
    return imported(qcow2(be(8, 112), be(16, len(name), 4), (112, name)))(place)


def nothing_is_made(place: Place) -> None:
    """No output, half or whole."""
    assert not list(place.home.glob("*made*"))


def both(name: str, words: str | None, make: Callable[[Place], list[str]]) -> Case:
    """Refused with these words, or harmless without."""
    return harmless(name, make) if words is None else refused(name, words, make, also=nothing_is_made)


def lying(whole: Callable[[], bytes], patches: Callable[[], list[Patch]]) -> Callable[[], bytes]:
    """It, with its lies."""
    return lambda: patched(whole(), *patches())


CASES: list[Case] = [
    *(both(f"ext4: {name}", words, listed(lying(ext4, make))) for name, (make, words) in EXT4.items()),
    *(both(f"EROFS: {name}", words, listed(lying(erofs, make))) for name, (make, words) in EROFS.items()),
    *(
        refused(f"table: {name}", words, listed(make, "--partition", "1"))
        for name, (make, words) in TABLES.items()
    ),
    *(both(f"qcow2: {name}", words, imported(make)) for name, (make, words) in QCOW2.items()),
    refused("qcow2: upon a file that it names", "unsupported", backed, also=nothing_is_made),
]
