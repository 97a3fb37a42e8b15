"""What a destination on this machine is given to store, piece by piece, checked against its descriptor."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

from obd.errors import about
from obd.oci.digest import Verified

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.protocols import Content, Progress

_PIECE_BYTES: Final = 1 << 20


def pieces(descriptor: Descriptor, content: Content, progress: Progress | None) -> Iterator[memoryview]:
    """The content, each piece good until the next is asked for.

    Raises `ObdError` "corrupt" in place of the end of what is not what the descriptor names, and what the
    content raises.
    """
    if isinstance(content, str):
        with about(content), open(content, "rb", buffering=0) as file:
            yield from _pieces(file, descriptor, content, progress)
    elif isinstance(content, bytes):
        yield from _pieces(io.BytesIO(content), descriptor, descriptor.digest, progress)
    else:
        yield from _pieces(content, descriptor, descriptor.digest, progress)


def _pieces(
    stream: BinaryIO | io.FileIO, descriptor: Descriptor, where: str, progress: Progress | None
) -> Iterator[memoryview]:
    # What a source gives is checked already: not twice.
    raw = getattr(stream, "raw", stream)
    verified = raw if isinstance(raw, Verified) else Verified(stream, descriptor, where)
    buffer, done = memoryview(bytearray(_PIECE_BYTES)), 0
    while count := verified.readinto(buffer):
        yield buffer[:count]
        done += count
        if progress:
            progress(done, descriptor.size)
