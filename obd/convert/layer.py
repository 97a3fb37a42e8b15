"""One layer: the source's archive applied to what is below it, and the outcome committed to a blob."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import obdcore
from obd.convert.record import Made
from obd.errors import about

if TYPE_CHECKING:
    from obd.convert.options import Options
    from obd.convert.plan import Step

Told = Callable[[int, int], None]
Lower = str | obdcore.RemoteBlob | obdcore.TurboLayer

_PIECE_BYTES: Final = 1 << 20


class FullError(Exception):
    """The file system of the image has no room: the device must be larger."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A sealed layer in the file `path` ("": it is elsewhere), not compressed yet, and the core's notes."""

    path: str
    notes: tuple[str, ...]


@contextmanager
def full() -> Iterator[None]:
    """Tells a file system without room from a disk without."""
    try:
        yield
    except obdcore.Error as error:
        # What the disk says has a cause; what the file system says has none.
        if error.kind == "no-space" and error.cause is None:
            raise FullError(error.what) from None
        raise


def apply_layer(
    lowers: Sequence[Lower], archive: int, path: str, *, vsize_bytes: int, fs: str, sha256: str, told: Told
) -> Applied:
    """Applies the archive that the descriptor `archive` gives, on `lowers`, into the new file `path`.

    The lowest layer gets a new file system on a device of `vsize_bytes`. `sha256` (hex digits) is of the
    uncompressed archive, "" if nobody knows it. Raises `obdcore.Error`, and `FullError`.
    """
    index = f"{path}.index"
    obdcore.lsmt_create(path, index, size=0 if lowers else vsize_bytes, scratch=True)
    image = obdcore.Image(list(lowers), (path, index), scratch=True)
    try:
        with full():
            done = _apply(image, archive, new=not lowers, fs=fs, sha256=sha256, told=told)
    finally:
        image.close()
    obdcore.lsmt_seal(path, index, scratch=True)
    os.unlink(index)
    return Applied(path, tuple(done["notes"]))


def _apply(
    image: obdcore.Image, archive: int, *, new: bool, fs: str, sha256: str, told: Told
) -> dict[str, Any]:
    if fs == "erofs":
        return obdcore.erofs_apply(image, archive, sha256=sha256 or None, progress=told)
    return obdcore.ext4_apply(image, archive, mkfs=new, sha256=sha256 or None, progress=told)


def commit_layer(sealed: str, path: str, step: Step, options: Options, told: Told) -> Made:
    """Makes the blob of a sealed layer, in the new file `path`. Raises `OSError`."""
    with open(path, "xb") as file:
        obdcore.lsmt_commit(
            sealed,
            None,
            file.fileno(),
            uuid=step.uuid,
            parent_uuid=step.parent_uuid,
            compress=options.compress,
            tar=True,
            progress=told,
        )
    size = os.stat(path).st_size
    digest = digest_of_file(path, told)
    # The archive around the layer is not compressed as such: it is its own diff.
    return Made(digest, size, digest, "native")


def digest_of_file(path: str, told: Told) -> str:
    """The SHA-256 of a file as a digest; `told` may end the work by what it raises."""
    found = hashlib.sha256(usedforsecurity=False)
    buffer = memoryview(bytearray(_PIECE_BYTES))
    with about(path), open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found.update(buffer[:count])
            told(0, 0)
    return f"sha256:{found.hexdigest()}"
