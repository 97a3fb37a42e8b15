"""Zfiles as binary files that can be read from anywhere."""

from __future__ import annotations

import io
import os

import obdcore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from _typeshed import StrPath, WriteableBuffer

# Whole blocks of any size, and few enough bytes for a read that only wanted some of them.
BUFFER_BYTES = 65536


class ZFile(io.RawIOBase):
    """A zfile as an unbuffered binary file, read-only. Closing it lets go of the file.

    `path` names a zfile, in a tar or not. Errors: `obdcore.Error` if it cannot be opened or is none.
    """

    def __init__(self, path: StrPath) -> None:
        super().__init__()
        self.name = os.fspath(path)
        self._position = 0
        self._reader: obdcore.ZFileReader | None = obdcore.ZFileReader(self.name)

    def _open(self) -> obdcore.ZFileReader:
        if self._reader is None:
            raise ValueError("I/O operation on closed file")
        return self._reader

    @property
    def size(self) -> int:
        """Bytes of the file that was compressed."""
        return self._open().size

    def readable(self) -> bool:
        """True, unless closed."""
        return self._open() is not None

    def seekable(self) -> bool:
        """True, unless closed."""
        return self._open() is not None

    def tell(self) -> int:
        """The position, in plain bytes."""
        self._open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position and returns it; beyond the end is fine, before the start is a `ValueError`."""
        size = self._open().size
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: size}
        if whence not in bases:
            raise ValueError(f"whence {whence}: one of 0, 1, 2 is possible")
        position = bases[whence] + offset
        if position < 0:
            raise ValueError(f"position {position} is before the start")
        self._position = position
        return position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fills `buffer` from the position on and moves behind; returns the bytes read, 0 at the end."""
        count = self._open().readinto_at(memoryview(buffer).cast("B"), self._position)
        self._position += count
        return count

    def readall(self) -> bytes:
        """All bytes from the position to the end."""
        reader = self._open()
        data = reader.read_at(self._position, reader.size)
        self._position += len(data)
        return data

    def close(self) -> None:
        """Lets go of the file; a second time does nothing."""
        self._reader = None
        super().close()


def open(path: StrPath, buffering: int = BUFFER_BYTES) -> io.BufferedReader:
    """Opens a zfile, in a tar or not, as a binary file: `read`, `seek`, `tell`, `readinto` and the rest.

    `buffering` is how many bytes are read ahead at least. Errors: as of `ZFile`.
    """
    return io.BufferedReader(ZFile(path), buffering)


def is_zfile(path: StrPath) -> bool:
    """Whether a file, or the first member of a tar, begins as a zfile does.

    Errors: `obdcore.Error` if it cannot be read, or if it begins so but its header is broken.
    """
    return obdcore.zfile_detect(os.fspath(path))


def info(path: StrPath) -> dict[str, Any]:
    """What a zfile is made of: `algorithm`, `block_size`, `checksum`, sizes and more.

    Sizes are in bytes; the keys are those of `obdcore.ZFileReader.info`. Errors: as of `ZFile`.
    """
    return obdcore.ZFileReader(os.fspath(path)).info()


def verify(path: StrPath, progress: obdcore.Progress | None = None) -> None:
    """Reads, checks and decodes every block of a zfile.

    `progress(done, total)` is called with plain bytes a few times a second. Errors: `obdcore.Error` of kind
    "corrupt" for the first block that is not intact, "unsupported" if blocks have no checksums.
    """
    obdcore.ZFileReader(os.fspath(path)).verify(progress)
