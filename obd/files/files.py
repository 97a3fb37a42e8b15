"""The files of an open image, by their paths."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import obdcore
from obd.errors import ObdError, kind_of
from obd.files.limits import MAX_DEPTH, MAX_WALKED, PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from obd.image import Device

T = TypeVar("T")
File = bytes | int
"""A path from the root, or `FileStat.ino`."""


class Files:
    """The file system of an image. Paths are bytes. Methods raise `ObdError`, which names image and path."""

    def __init__(self, name: str, device: Device, native: obdcore.FileSystem) -> None:
        self.name: Final = name
        """The image, for messages."""
        self.device: Final = device
        self.native: Final = native

    def stat(self, path: bytes, *, follow: bool = False) -> obdcore.FileStat:
        """What `lstat`, or with `follow` `stat`, says of a file."""
        return self.call(path, self.native.stat, path, follow=follow)

    def read(self, path: bytes, file: File | None = None) -> Iterator[bytes]:
        """The content of a regular file, piece by piece. `file`: its number, if it is known."""
        found: File = path if file is None else file
        size = self.call(path, self.native.stat, found, follow=True).size
        for at in range(0, max(size, 1), PIECE_BYTES):
            yield self.call(path, self.native.read, found, at, PIECE_BYTES)

    def data(self, path: bytes, file: File, size: int) -> Iterator[tuple[int, bytes]]:
        """The content of a regular file without its holes, as offsets and pieces."""
        at = 0
        while at < size:
            runs = self.call(path, self.native.data, file, at, size - at)
            for start, length in runs:
                for offset in range(start, start + length, PIECE_BYTES):
                    count = min(PIECE_BYTES, start + length - offset)
                    yield offset, self.call(path, self.native.read, file, offset, count)
            if not runs:
                return
            at = runs[-1][0] + runs[-1][1]

    def entries(self, path: bytes, file: File) -> list[tuple[bytes, int]]:
        """Name and number of the entries of a directory, by name."""
        return sorted(self.call(path, self.native.list, file))

    def readlink(self, path: bytes, file: File) -> bytes:
        """Where a symbolic link leads."""
        return self.call(path, self.native.readlink, file)

    def xattrs(self, path: bytes, file: File) -> dict[bytes, bytes]:
        """The extended attributes of a file."""
        return self.call(path, self.native.xattrs, file)

    def number(self, path: bytes, number: int) -> obdcore.FileStat:
        """What is known of the file of that number; `path` is for messages."""
        return self.call(path, self.native.stat, number)

    def walk(self, top: bytes, number: int) -> Iterator[tuple[bytes, obdcore.FileStat]]:
        """All below the directory `top` of that number, by name, depth first; paths begin with `top`."""
        seen = Seen(self, number)
        left = [(join(top, name), child, 1) for name, child in reversed(self.entries(top, number))]
        while left:
            path, child, depth = left.pop()
            info = self.number(path, child)
            yield path, info
            if is_directory(info):
                seen.enter(path, child, depth)
                entries = self.entries(path, child)
                left += [(join(path, name), below, depth + 1) for name, below in reversed(entries)]

    def call(self, path: bytes, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """The result of `work`; its failure names image and path."""
        try:
            return work(*args, **options)
        except obdcore.Error as error:
            what = ": ".join(part for part in (error.what, error.cause) if part)
            raise ObdError(kind_of(error), what, f"{self.name}:{shown(path)}") from None

    def close(self) -> None:
        """Closes the image."""
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Seen:
    """The directories that a walk has been in: one that comes again leads in a circle."""

    def __init__(self, files: Files, top: int) -> None:
        self._files = files
        self._numbers = {top}

    def enter(self, path: bytes, number: int, depth: int) -> None:
        """Raises `ObdError` if a walk must not go on into this directory, `depth` below its top."""
        name = f"{self._files.name}:{shown(path)}"
        if number in self._numbers:
            raise ObdError("corrupt", "a directory that is in two places", name)
        if depth > MAX_DEPTH or len(self._numbers) >= MAX_WALKED:
            raise ObdError("limit", "too many directories, or too deep", name)
        self._numbers.add(number)


def is_directory(info: obdcore.FileStat) -> bool:
    """Whether it is a directory."""
    return info.mode & 0o170000 == 0o040000


def join(path: bytes, name: bytes) -> bytes:
    """The path of an entry of a directory."""
    return path + name if path in (b"", b"/") else path.rstrip(b"/") + b"/" + name


def shown(path: bytes) -> str:
    """A path as messages and listings show it: what is not to be printed is escaped."""
    text = os.fsdecode(path)
    return text if text.isprintable() and "\\" not in text else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
