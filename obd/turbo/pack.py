"""The archive that carries a turboOCI layer's metadata in a registry, the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from obd.oci.layers import (
    BLOB_DIGEST,
    BLOB_SIZE,
    TARGET_DIGEST,
    TARGET_MEDIA_TYPE,
    TURBO_VERSION,
    VERSION,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a directory of a snapshot must have to be one of turboOCI.
MARKER: Final = ".turbo.ociv1"
GZIP_INDEX: Final = "gzip.meta"
# zlib's default: most of what is packed is compressed already.
_LEVEL: Final = 6
_GZIP: Final = 31


@dataclass(frozen=True)
class Packed:
    """An archive: `digest` and `size` (bytes) of the file, and `diff_id`, the digest of the tar in it."""

    digest: str
    size: int
    diff_id: str


class _Pipe:
    """Takes a tar; digests, compresses, digests and writes it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._plain = hashlib.sha256()
        self._packed = hashlib.sha256()
        self._gzip = zlib.compressobj(_LEVEL, wbits=_GZIP)
        self._size = 0

    def write(self, data: bytes) -> int:
        """Called by `tarfile`."""
        self._plain.update(data)
        self._put(self._gzip.compress(data))
        return len(data)

    def finish(self) -> Packed:
        """Ends it all."""
        self._put(self._gzip.flush())
        digest, diff_id = (f"sha256:{sum.hexdigest()}" for sum in (self._packed, self._plain))
        return Packed(digest, self._size, diff_id)

    def _put(self, data: bytes) -> None:
        self._packed.update(data)
        self._size += len(data)
        while data:
            data = data[os.write(self._fd, data) :]


def pack(meta_paths: Mapping[str, str], gzip_index: str | None, out: str) -> Packed:
    """Writes the archive `out` (a gzip tar, replaced if it is there) of one layer's metadata.

    meta_paths: committed metadata layers, by the name of their file system ("ext4", "erofs").
    gzip_index: the index of the original layer, if that is compressed.
    Raises `OSError`.
    """
    members = [(f"{name}.fs.meta", path) for name, path in sorted(meta_paths.items())]
    members.append((MARKER, os.devnull))
    if gzip_index is not None:
        members.append((GZIP_INDEX, gzip_index))
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        pipe = _Pipe(fd)
        with tarfile.open(fileobj=cast("BinaryIO", pipe), mode="w|") as archive:
            for name, path in members:
                member = tarfile.TarInfo(name)
                with open(path, "rb") as file:
                    member.size = os.fstat(file.fileno()).st_size
                    archive.addfile(member, file)
        return pipe.finish()
    finally:
        os.close(fd)


def annotate(packed: Packed, target_digest: str, target_media_type: str) -> dict[str, str]:
    """What the descriptor of the archive says; `target_*` are those of the original layer."""
    return {
        VERSION: TURBO_VERSION,
        BLOB_DIGEST: packed.digest,
        BLOB_SIZE: str(packed.size),
        TARGET_DIGEST: target_digest,
        TARGET_MEDIA_TYPE: target_media_type,
    }
