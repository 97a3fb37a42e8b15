"""Layers that mean harm: refused with a word that says why, or harmless; in bounded time and memory."""

import gzip
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

import obdcore
from tests.e2e.commands import BIN, run
from tests.e2e.layers import archive
from tests.e2e.layers.archive import END, Member, header, number, pack, padded, record
from tests.e2e.layers.torture import d, f, link, sym
from tests.e2e.layers.unpacking import applied
from tests.e2e.trees import assert_clean, mounted, needs_loop

MIB = 1 << 20
SIZE = 16 * MIB
# What a layer may unpack to beyond twice the device.
EXTRA = 1024 * MIB
RSS_MIB = 200
LONGEST = "user." + "n" * 250
# Runs a command, and prints the KiB that it took at most. A process of its own, since a child counts what its
# parent had.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def with_header(at: int, value: bytes, member: Member) -> Member:
    """A member whose header has these bytes at a place, and a right checksum."""
    block = bytearray(archive.packed(member)[:512])
    archive.put(block, at, value)
    return Member(member.path, raw=archive.summed(block) + padded(member.content))


def with_records(*records: tuple[bytes, bytes], content: bytes = b"") -> Member:
    """A file with these PAX records."""
    return Member("p", content=content, records=records)


def with_body(kind: str, body: bytes) -> Member:
    """A header of this kind with its body."""
    return Member("", raw=header(b"h", kind, len(body)) + padded(body))


def many_globals() -> list[Member]:
    """Headers for all members, each with more attributes, of more than memory holds if there are enough."""
    value = b"v" * 60_000
    bodies = [
        b"".join(record(b"SCHILY.xattr.other.%d.%d" % (n, m), value) for m in range(10)) for n in range(40)
    ]
    return [part for body in bodies for part in (with_body("g", body), f("x"))]


SPARSE = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"100"))
REFUSED: dict[str, tuple[list[Member], str]] = {
    "size of 8 EiB": ([with_header(124, b"\x80" + b"\x7f" * 11, f("a"))], "size is no number"),
    "size below 0": ([with_header(124, b"\xff" * 12, f("a"))], "a tar member of -1 bytes"),
    "size of words": ([with_header(124, b"9bytes", f("a"))], "size is no number"),
    "size beyond the archive": ([with_header(124, number(1 << 40, 12), f("a"))], "bytes early"),
    "size of PAX": ([with_records((b"size", b"9" * 19), content=b"x")], "bytes"),
    "size of PAX beyond 64 bits": ([with_records((b"size", b"9" * 30))], "PAX record size"),
    "owner": ([with_records((b"uid", b"4294967296"))], "owner 4294967296"),
    "owner below 0": ([with_header(108, b"\xff" * 8, f("a"))], "owner -1"),
    "device": ([Member("c", archive.CHAR, device=(4096, 0))], "device 4096:0"),
    "device of 64 bits": ([Member("c", archive.CHAR, device=(1 << 40, 0))], "device 1099511627776:0"),
    "type": ([with_header(156, b"Z", f("a"))], "type 'Z'"),
    "long name of GiB": ([Member("", raw=header(b"l", "L", 1 << 30))], "a tar header of 1073741824 bytes"),
    "long name of 60 KB": ([with_body("L", b"n/" * 30_000), f("x")], "parts"),
    "PAX header of GiB": ([Member("", raw=header(b"x", "x", 1 << 30))], "a tar header of 1073741824 bytes"),
    "headers without end": ([with_body("x", record(b"comment", b"c"))] * 20, "more than 8 headers"),
    "headers of nothing": ([with_body("x", record(b"comment", b"c"))], "between a member's headers"),
    "attributes for all": (many_globals(), "extended attributes of"),
    "attributes without end": (
        [with_body("x", b"".join(record(b"SCHILY.xattr.user.%d" % n, b"") for n in range(20_000))), f("x")],
        "more than 4096 extended attributes",
    ),
    "attribute of 100 KB": ([f("x", xattrs={"user.x": b"v" * 100_000})], "user.x, 100000 bytes"),
    "sparse of 2^40 pieces": ([Member("s", records=SPARSE, content=padded(b"%d\n" % (1 << 40)))], "pieces"),
    "sparse of pieces that overlap": (
        [Member("s", records=SPARSE, content=padded(b"2\n0\n9\n8\n9\n") + b"x" * 18)],
        "whose pieces make no sense",
    ),
    "sparse of pieces beyond its end": (
        [Member("s", records=SPARSE, content=padded(b"1\n99\n9\n") + b"x" * 9)],
        "whose pieces make no sense",
    ),
    "sparse of more than it says": (
        [Member("s", records=SPARSE, content=padded(b"1\n0\n9\n") + b"x" * 99)],
        "of which it uses 9",
    ),
    "sparse of a map without end": (
        [Member("s", records=SPARSE, content=b"1" * 512)],
        "map that does not end",
    ),
    "sparse of 2^62 bytes": (
        [
            Member(
                "s",
                records=(*SPARSE[:2], (b"GNU.sparse.realsize", b"%d" % (1 << 62))),
                content=padded(b"0\n"),
            )
        ],
        "too large for ext4",
    ),
    "more files than inodes": ([Member(f"{n}") for n in range(2000)], "free inode"),
    "lost+found as a file": ([f("lost+found")], "of its own there, which has to stay"),
    "lost+found as a link": ([f("x"), link("lost+found", "x")], "of its own there, which has to stay"),
    "link out of the root": ([link("x", "../../../etc/passwd")], "etc/passwd: not there"),
    "link over a link out": ([sym("out", "/.."), link("x", "out/etc/passwd")], "etc/passwd: not there"),
    "below a link to itself": ([sym("me", "me"), f("me/x")], "circles"),
    "below links to one another": ([sym("a", "b/x"), sym("b", "a/x"), f("a/y")], "circles"),
    "below links that grow": ([sym("a", "a/a/a/a/a/a/a"), f("a/y")], "circles"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    members, words = REFUSED[name]
    image = tmp_path / "raw.img"
    applied(image, pack([f("below"), d("dir")]), tmp_path, SIZE)
    with pytest.raises(obdcore.Error) as raised:
        applied(image, pack(members), tmp_path)
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert_clean(image)


@needs_loop
def test_harmless(tmp_path: Path) -> None:
    image = tmp_path / "raw.img"
    members = [
        *(
            f("../../../climbs"),
            f("a/../../../over"),
            sym("root", "/"),
            f("root/../../in"),
            sym("host", "/etc"),
        ),
        *(f("host/passwd", b"mine"), Member(".wh.host/x"), f(".wh..wh.plnk/1.2"), f("a/.wh..wh.aufs")),
        f("...", xattrs=dict.fromkeys((LONGEST, LONGEST + "n", "other.x", "user."), b"v")),
        *(f("lost+found/x"), Member(".wh.lost+found"), Member("a/.wh.../x")),
        # A file of a TiB that is nothing but a hole.
        Member(
            "hole", records=(*SPARSE[:2], (b"GNU.sparse.realsize", b"%d" % (1 << 40))), content=padded(b"0\n")
        ),
    ]
    done = applied(image, pack(members), tmp_path, SIZE)
    assert_clean(image)
    with mounted(image) as root:
        assert (root / "etc/passwd").read_bytes() == b"mine"
        assert (root / "hole").stat().st_size == 1 << 40
        found = tree_names(root)
        assert os.listxattr(root / "...") == [LONGEST]
    wanted = {"climbs", "over", "root", "in", "host", "etc", "etc/passwd", "a", "...", "hole", "lost+found"}
    assert found == wanted | {"lost+found/x"}
    assert sum("below a whiteout" in note for note in done["notes"]) == 3
    assert sum("is passed over" in note for note in done["notes"]) == 3


def tree_names(root: Path) -> set[str]:
    """What is there, without looking at content."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def zstd_of_zeros(head: bytes, count: int) -> bytes:
    """A zstd file of `head` and many zeros, as small as the format allows: 4 bytes for 128 KiB."""
    block = struct.pack("<I", (128 << 10) << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", 1 << 3 | 1 << 1 | 1)[:3] + b"\0"
    frame = b"\x28\xb5\x2f\xfd" + b"\0" + bytes([(17 - 10) << 3]) + block * (count // (128 << 10)) + last
    return zstandard.ZstdCompressor().compress(head) + frame


def gzip_of_zeros(head: bytes, count: int) -> bytes:
    """The same as gzip."""
    packer = zlib.compressobj(1, wbits=31)
    zeros = bytes(MIB)
    return (
        packer.compress(head) + b"".join(packer.compress(zeros) for _ in range(count // MIB)) + packer.flush()
    )


LISTS = header(b"list", "D", EXTRA * 4)
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    # More than the device holds, as a file.
    "gzip file": (lambda: gzip_of_zeros(header(b"f", "0", 40 * MIB), 41 * MIB), "no-space"),
    "zstd file": (lambda: zstd_of_zeros(header(b"f", "0", EXTRA), EXTRA + MIB), "no-space"),
    # What nothing is made of.
    "zstd list": (lambda: zstd_of_zeros(LISTS, EXTRA + 3 * SIZE), "an archive of more than"),
    "zstd after the end": (lambda: zstd_of_zeros(END, EXTRA + 3 * SIZE), "an archive of more than"),
    "zstd window": (lambda: b"\x28\xb5\x2f\xfd\0" + bytes([21 << 3]) + bytes(99), "too much memory"),
    "cut gzip": (lambda: gzip.compress(pack([f("x", os.urandom(9000))]))[:-20], "cut off"),
    "cut zstd": (lambda: zstandard.compress(pack([f("x", os.urandom(9000))]))[:-20], "cut off"),
    "gzip and garbage": (lambda: gzip.compress(pack([f("x")])) + b"garbage", "no gzip"),
    "wrong gzip": (lambda: gzip.compress(pack([f("x")]))[:-8] + bytes(8), "damaged"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_bounded(tmp_path: Path, name: str) -> None:
    make, words = BOMBS[name]
    layer, image = tmp_path / "layer", tmp_path / "raw.img"
    layer.write_bytes(make())
    applied(image, pack([f("below")]), tmp_path, SIZE)
    command = [str(BIN / "overlaybd-apply"), "--raw", str(layer), str(image)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 255
    assert words in done.stderr.lower()
    assert int(done.stdout) < RSS_MIB << 10
    assert_clean(image)


def test_what_a_damaged_file_system_says_is_one_line(tmp_path: Path) -> None:
    image, layer = tmp_path / "raw.img", tmp_path / "layer"
    applied(image, pack([f("x", b"x" * 9000)]), tmp_path, SIZE)
    # Its content begins in the last block of the device, and goes on.
    damage = ["debugfs", "-w", "-R", "set_inode_field x block[5] 4095", str(image)]
    subprocess.run(damage, check=True, capture_output=True)
    layer.write_bytes(pack([Member(".wh.x")]))
    done = run("overlaybd-apply", "--raw", layer, image)
    assert (done.status, len(done.lines)) == (255, 1)
    assert "corrupt" in done.err
