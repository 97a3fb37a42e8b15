"""Tar archives written byte by byte: every dialect, and whatever else a header can be made to say."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field

BLOCK = 512
FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIR, FIFO = "0", "1", "2", "3", "4", "5", "6"
END = bytes(2 * BLOCK)
NS = 10**9
# What the 12 digits of a time and the 7 of an owner can say.
MAX_OCTAL_TIME = 8**11 - 1
MAX_OCTAL_ID = 8**7 - 1


@dataclass(frozen=True)
class Member:
    """One member, and how it is to be written.

    `mtime` is in ns. `holes` maps offsets to pieces of a sparse file of `size` bytes, written as `sparse`
    says: "gnu", "0.0", "0.1" or "1.0". `dialect`: "pax", "gnu", "ustar", "v7". `records` are further PAX
    records.
    `raw` stands for all of it as it is.
    """

    path: str | bytes
    kind: str = FILE
    content: bytes = b""
    target: str | bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_700_000_000 * NS
    xattrs: dict[str, bytes] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)
    sparse: str = ""
    holes: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    dialect: str = "pax"
    records: tuple[tuple[bytes, bytes], ...] = ()
    raw: bytes | None = None

    @property
    def name(self) -> bytes:
        """The path in bytes."""
        return encoded(self.path)

    @property
    def link(self) -> bytes:
        """Where a link leads, in bytes."""
        return encoded(self.target)

    @property
    def whole(self) -> bytes:
        """The content of the file, holes filled."""
        if not self.sparse:
            return self.content
        content = bytearray(self.size)
        for offset, piece in self.holes.items():
            content[offset : offset + len(piece)] = piece
        return bytes(content)


def encoded(name: str | bytes) -> bytes:
    """A name in bytes."""
    return name.encode() if isinstance(name, str) else name


def pack(members: Iterable[Member], end: bytes = END) -> bytes:
    """An archive of these members."""
    return b"".join(map(packed, members)) + end


def packed(member: Member) -> bytes:
    """One member with its headers, its content and the padding."""
    if member.raw is not None:
        return member.raw
    before, records = b"", list(member.records)
    if member.dialect == "gnu":
        for kind, name in (("L", member.name), ("K", member.link)):
            if len(name) > 100:
                before += header(b"././@LongLink", kind, len(name) + 1) + padded(name + b"\0")
    if member.dialect == "pax":
        records += [(b"SCHILY.xattr." + name.encode(), value) for name, value in member.xattrs.items()]
        records += [(b"path", member.name)] if len(member.name) > 100 or not member.name.isascii() else []
        records += [(b"linkpath", member.link)] if len(member.link) > 100 else []
        records += [(key, str(n).encode()) for key, n in owners(member) if n > MAX_OCTAL_ID]
        if member.mtime % NS or not 0 <= member.mtime // NS <= MAX_OCTAL_TIME:
            records.append((b"mtime", time_text(member.mtime)))
    stored, kind, name = member.content, member.kind, member.name
    more: dict[int, bytes] = {}
    if member.sparse == "gnu":
        stored, more = old_sparse(member)
        kind = "S"
    elif member.sparse:
        stored, extra = new_sparse(member)
        records += extra
        name = b"GNUSparseFile.0/" + name
    length = len(stored)
    if member.sparse == "gnu":
        length = sum(map(len, member.holes.values()))
    if records:
        body = b"".join(record(key, value) for key, value in records)
        before += header(b"PaxHeaders/x", "x", len(body)) + padded(body)
    block = header(name, kind, length, member, more)
    return before + block + padded(stored)


def owners(member: Member) -> list[tuple[bytes, int]]:
    """The two PAX records of a member's owner."""
    return [(b"uid", member.uid), (b"gid", member.gid)]


def header(
    name: bytes,
    kind: str,
    length: int,
    member: Member | None = None,
    more: dict[int, bytes] | None = None,
) -> bytes:
    """A header block with its checksum; `more` puts bytes at places."""
    block = bytearray(BLOCK)
    dialect = member.dialect if member else "pax"
    if dialect == "ustar" and len(name) > 100:
        cut = name.rindex(b"/", 0, 156)
        name, prefix = name[cut + 1 :], name[:cut]
        block[345 : 345 + len(prefix)] = prefix
    put(block, 0, name[:100])
    put(block, 124, number(length, 12))
    put(block, 156, kind.encode())
    if member:
        put(block, 100, number(member.mode, 8))
        base256 = dialect == "gnu"
        put(block, 108, number(member.uid if base256 else min(member.uid, MAX_OCTAL_ID), 8))
        put(block, 116, number(member.gid if base256 else min(member.gid, MAX_OCTAL_ID), 8))
        seconds = member.mtime // NS
        put(block, 136, number(seconds if base256 else min(max(seconds, 0), MAX_OCTAL_TIME), 12))
        put(block, 157, member.link[:100])
        if dialect != "v7":
            put(block, 329, number(member.device[0], 8))
            put(block, 337, number(member.device[1], 8))
    if dialect != "v7":
        put(block, 257, b"ustar  \0" if dialect == "gnu" else b"ustar\00000")
    for at, value in (more or {}).items():
        put(block, at, value)
    return summed(block)


def summed(block: bytearray) -> bytes:
    """A header block with the right checksum."""
    put(block, 148, b" " * 8)
    put(block, 148, f"{sum(block):06o}\0 ".encode())
    return bytes(block)


def put(block: bytearray, at: int, value: bytes) -> None:
    """Overwrites bytes."""
    block[at : at + len(value)] = value


def number(value: int, width: int) -> bytes:
    """A field: octal, or base 256 for what does not fit."""
    if 0 <= value < 8 ** (width - 1):
        return f"{value:0{width - 1}o}\0".encode()
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def padded(data: bytes) -> bytes:
    """Whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """A PAX record, whose length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length += 1
    return str(length).encode() + rest


def time_text(ns: int) -> bytes:
    """Seconds with a fraction, as PAX has them; before 1970 both parts are negative."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    fraction = f".{ns % NS:09}".rstrip("0") if ns % NS else ""
    return f"{sign}{ns // NS}{fraction}".encode()


def old_sparse(member: Member) -> tuple[bytes, dict[int, bytes]]:
    """Continuation blocks and content of an old GNU sparse member; what its header has besides."""
    pieces = [number(n, 12) for offset, piece in member.holes.items() for n in (offset, len(piece))]
    more = {386: b"".join(pieces[:8]), 483: number(member.size, 12)}
    rest, blocks = pieces[8:], b""
    if rest:
        more[482] = b"\1"
    while rest:
        block = b"".join(rest[:42])
        rest = rest[42:]
        blocks += padded(block.ljust(504, b"\0") + (b"\1" if rest else b"\0"))
    return blocks + b"".join(member.holes.values()), more


def new_sparse(member: Member) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Stored bytes and PAX records of a sparse member, in one of the three ways."""
    pairs = [(offset, len(piece)) for offset, piece in member.holes.items()]
    content = b"".join(member.holes.values())
    flat = [str(n).encode() for pair in pairs for n in pair]
    name = [(b"GNU.sparse.name", member.name)]
    if member.sparse == "1.0":
        text = b"".join(line + b"\n" for line in [str(len(pairs)).encode(), *flat])
        version = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
        return padded(text) + content, [*version, *name, (b"GNU.sparse.realsize", str(member.size).encode())]
    size = [(b"GNU.sparse.size", str(member.size).encode())]
    count = [(b"GNU.sparse.numblocks", str(len(pairs)).encode())]
    if member.sparse == "0.1":
        return content, [*size, *count, (b"GNU.sparse.map", b",".join(flat)), *name]
    keys = [b"GNU.sparse.offset", b"GNU.sparse.numbytes"]
    return content, [*size, *count, *zip(keys * len(pairs), flat, strict=True), *name]


def libarchive_xattr(name: str, value: bytes) -> tuple[bytes, bytes]:
    """An attribute as bsdtar alone writes it."""
    return b"LIBARCHIVE.xattr." + name.encode(), base64.b64encode(value).rstrip(b"=")
