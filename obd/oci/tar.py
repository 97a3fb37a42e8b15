"""A tar as a store: its members are found by one look at its headers, and read where they lie."""

from __future__ import annotations

import io
import os
import posixpath
import stat
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn, cast

from obd.errors import ObdError, kind_of
from obd.oci.limits import MAX_HEADER_BYTES, MAX_LINKS, MAX_MEMBERS
from obd.oci.store import Store

_BLOCK: Final = 512
_FILES: Final = b"07\0"
_LINKS: Final = b"12"
_GZIP: Final = b"\x1f\x8b"
# The length of a record in an extended header, with the blank behind it.
_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    size: int
    # Of a link: the name that it leads to, as this archive has it.
    target: str = ""


class Tar(Store):
    """The regular files of the tar `path`; links lead to others of them, and never out of the archive.

    Names are only ever looked up, no file is made of them. It is not `tarfile`, which believes the sizes and
    the chains of headers that it is given. Raises `ObdError` for what is no whole tar.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            # A pipe of that name must not keep us waiting.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ObdError(kind_of(error), f"cannot open: {error.strerror}", path) from None
        try:
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode):
                raise ObdError("invalid", "not a regular file", path)
            self._length: Final = found.st_size
            self._members: Final = self._scan()
        except BaseException:
            os.close(self._fd)
            raise

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file."""
        return self._find(name) is not None

    def open(self, name: str) -> BinaryIO:
        """As `Store.open`."""
        member = self._member(name)
        return cast(BinaryIO, io.BufferedReader(_Region(self._fd, member.offset, member.size), 64 << 10))

    def size(self, name: str) -> int:
        """As `Store.size`."""
        return self._member(name).size

    def close(self) -> None:
        """As `Store.close`; what was opened cannot be read any more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _member(self, name: str) -> _Member:
        member = self._find(name)
        if member is None:
            raise ObdError("not-found", f"there is no {name[:200]}", self.name)
        return member

    def _find(self, name: str) -> _Member | None:
        for _ in range(MAX_LINKS):
            member = self._members.get(name)
            if member is None or not member.target:
                return member
            name = member.target
        return None

    def _scan(self) -> dict[str, _Member]:
        members: dict[str, _Member] = {}
        extended: dict[str, str] = {}
        at, count = 0, 0
        while at < self._length:
            header = os.pread(self._fd, _BLOCK, at)
            if at == 0 and header.startswith(_GZIP):
                raise ObdError(
                    "unsupported", "the archive is compressed as a whole: decompress it", self.name
                )
            if not header.strip(b"\0"):
                break
            self._check(header, at)
            kind = header[156:157]
            size = _number(header[124:136])
            if size is None:
                self._corrupt("a size that is none", at)
            if kind not in b"xgLK" and "size" in extended:
                size = int(extended["size"])
            start, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
            if start + size > self._length:
                self._corrupt(f"a member ends beyond the {self._length} bytes of the archive", start)
            count += 1
            if count > MAX_MEMBERS:
                raise ObdError("limit", f"more than {MAX_MEMBERS} members", self.name)
            if kind in b"xgLK":
                # What a global header says is for all, so it cannot be a name or a size.
                if kind != b"g":
                    extended |= self._extended(kind, start, size)
                continue
            name = _plain(extended.get("path") or _name(header), "")
            link = extended.get("linkpath") or _text(header[157:257])
            extended = {}
            if not name:
                continue
            # Of several of one name the last one counts; also if it is something else.
            members.pop(name, None)
            if kind in _FILES:
                members[name] = _Member(start, size)
            elif kind in _LINKS:
                target = _plain(link, posixpath.dirname(name) if kind == b"2" else "")
                if target:
                    members[name] = _Member(0, 0, target)
        return members

    def _check(self, header: bytes, at: int) -> None:
        told = _number(header[148:156])
        real = sum(header) - sum(header[148:156]) + 8 * 32
        if len(header) < _BLOCK or told != real:
            self._corrupt("not a tar, or not a whole one", at)

    def _extended(self, kind: bytes, start: int, size: int) -> dict[str, str]:
        """What the header of a header says: names and sizes that do not fit into one."""
        if size > MAX_HEADER_BYTES:
            raise ObdError("limit", f"a header of {size} bytes, more than {MAX_HEADER_BYTES}", self.name)
        data = os.pread(self._fd, size, start)
        if kind in b"LK":
            return {"path" if kind == b"L" else "linkpath": _text(data)}
        found: dict[str, str] = {}
        # By places: to cut each record off what follows would copy all of that as often as there are records.
        at = 0
        while at < len(data):
            digits, blank, _ = data[at : at + _DIGITS].partition(b" ")
            length = int(digits) if blank and digits.isdigit() else 0
            if not len(digits) + 2 <= length <= len(data) - at:
                self._corrupt("an extended header that is none", start)
            key, equals, value = data[at + len(digits) + 1 : at + length - 1].partition(b"=")
            at += length
            if equals and key in (b"path", b"linkpath"):
                found[key.decode()] = _text(value)
            elif equals and key == b"size":
                if not value.isdigit() or len(value) > 19:
                    self._corrupt("a size that is none", start)
                found["size"] = value.decode()
        return found

    def _corrupt(self, what: str, at: int) -> NoReturn:
        raise ObdError("corrupt", f"{what}, at {at}", self.name)


class _Region(io.RawIOBase):
    """A range of a file that others read too."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd, self._at, self._end = fd, offset, offset + size

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As `io.RawIOBase.readinto`."""
        view = memoryview(buffer).cast("B")[: self._end - self._at]
        count = os.preadv(self._fd, [view], self._at) if view else 0
        self._at += count
        return count


def _number(field: bytes) -> int | None:
    """A number of a header: octal digits, or base 256 where those do not suffice. None for neither."""
    if field[:1] and field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        return value if value < 1 << 62 else None
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if set(digits) <= set(b"01234567") else None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(header[:100])}" if prefix else _text(header[:100])


def _plain(name: str, directory: str) -> str:
    """A name within the archive as it is looked up, "" for one that leads out of it."""
    joined = posixpath.normpath(posixpath.join("/", directory, name.lstrip("/"))).lstrip("/")
    parts = posixpath.join(directory, name.lstrip("/")).split("/")
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return ""
    return joined
