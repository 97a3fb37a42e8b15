"""Compresses to zfiles and back: files, or bytes in memory."""

from __future__ import annotations

import os

import obdcore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from _typeshed import ReadableBuffer, StrPath


def compress_file(
    source: StrPath | int,
    target: StrPath,
    *,
    algorithm: str = "lz4",
    block_size: int = 4096,
    checksum: bool = True,
    overwrite_header: bool = False,
    tar: bool = False,
    threads: int = 0,
    progress: obdcore.Progress | None = None,
) -> dict[str, Any]:
    """Compresses a file, or what an open descriptor (a pipe will do) still gives, into the new file `target`.

    `algorithm` is "lz4" or "zstd"; `block_size` a power of two of bytes, 4096 to 65536 for upstream's tools;
    `checksum` lets readers notice corruption; `overwrite_header` puts the final values into the header too;
    `tar` wraps the result as registries want it; `threads` 0 means one for each processor, and the result is
    the same whatever the number. `progress(done, total)` counts bytes of `source`, total 0 being unknown.

    Returns `original_size`, `stored_size` (without the tar) and `blocks`. Errors: `FileExistsError`;
    `obdcore.Error`, of kind "limit" for 64 KiB blocks that do not compress, which no reader of upstream's
    could read. After an error there is no `target`.
    """
    keep = isinstance(source, int)
    with open(source, "rb", buffering=0, closefd=not keep) as read, _Output(target) as write:
        return obdcore.zfile_compress(
            read.fileno(),
            write.fd,
            algorithm=algorithm,
            block_size=block_size,
            checksum=checksum,
            overwrite_header=overwrite_header,
            tar=tar,
            threads=threads,
            progress=progress,
        )


def decompress_file(source: StrPath, target: StrPath, *, progress: obdcore.Progress | None = None) -> int:
    """Writes what a zfile, in a tar or not, holds into the new file `target`; returns its size in bytes.

    Errors: `FileExistsError`; `obdcore.Error` if the zfile cannot be read. After an error there is no
    `target`.
    """
    with _Output(target) as write:
        return obdcore.zfile_decompress(os.fspath(source), write.fd, progress=progress)


def compress(
    data: ReadableBuffer,
    *,
    algorithm: str = "lz4",
    block_size: int = 4096,
    checksum: bool = True,
) -> bytes:
    """A zfile of `data`, in memory. Parameters and errors: as of `compress_file`."""
    with _memory(data) as read, _memory() as write:
        obdcore.zfile_compress(
            read.fileno(),
            write.fileno(),
            algorithm=algorithm,
            block_size=block_size,
            checksum=checksum,
            threads=1,
        )
        return write.read()


def decompress(data: ReadableBuffer) -> bytes:
    """What a zfile in memory, in a tar or not, holds. Errors: `obdcore.Error` if it cannot be read."""
    with _memory(data) as read:
        reader = obdcore.ZFileReader(f"/proc/self/fd/{read.fileno()}")
        return reader.read_at(0, reader.size)


class _Output:
    """A new file, gone again if what is done with it fails."""

    def __init__(self, target: StrPath) -> None:
        self._path = target
        self.fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        os.close(self.fd)
        if kind is not None:
            os.unlink(self._path)


def _memory(data: ReadableBuffer = b"") -> BinaryIO:
    """A file that is nowhere but in memory, holding `data`, positioned at its start."""
    file = os.fdopen(os.memfd_create("zfile", os.MFD_CLOEXEC), "w+b")
    file.write(data)
    file.seek(0)
    return file
