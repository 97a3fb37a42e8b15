"""What an upload sends: ranges of a file, or of a stream that is read only once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from obd.errors import ObdError, about

if TYPE_CHECKING:
    from obd.oci.protocols import Progress

_READ_BYTES: Final = 1 << 20


class Body(Protocol):
    """The content of a blob, as far as it can be had."""

    again: bool
    """Whether it can be read from its beginning again."""

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a range: any if `again`, else the last one once more, or the one after it."""


class FileBody:
    """The content of an open file."""

    again = True

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._name: Final = str(getattr(file, "name", ""))

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """As `Body.pieces`."""
        at = start
        while at < end:
            with about(self._name):
                self._file.seek(at)
                piece = self._file.read(min(_READ_BYTES, end - at))
            if not piece:
                raise ObdError("corrupt", "the file became shorter while it was uploaded")
            yield piece
            at += len(piece)


class StreamBody:
    """What a stream of `size` bytes gives, of which the range that is being sent is kept."""

    again = False

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._start = 0
        self._kept: list[bytes] = []

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """As `Body.pieces`. Before the last byte is given the stream has had its say."""
        if start != self._start:
            self._start, self._kept = start, []
        yield from self._kept
        at = start + sum(map(len, self._kept))
        while at < end:
            piece = self._stream.read(min(_READ_BYTES, end - at))
            if not piece:
                raise ObdError("corrupt", f"the content ends after {at} of {self._size} bytes")
            at += len(piece)
            if at == self._size and self._stream.read(1):
                raise ObdError("corrupt", f"the content is longer than {self._size} bytes")
            self._kept.append(piece)
            yield piece


class Part:
    """A range of a blob as the body of a request; from its beginning each time it is sent."""

    def __init__(self, body: Body, start: int, end: int, size: int, progress: Progress | None) -> None:
        self._body, self._start, self._end, self._size = body, start, end, size
        self._progress = progress
        # What the content raised: the HTTP client would take it for a failure of the connection.
        self.failure: OSError | None = None

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        at = self._start
        pieces = self._body.pieces(self._start, self._end)
        while True:
            try:
                piece = next(pieces, None)
            except OSError as error:
                self.failure = error
                raise
            if piece is None:
                return
            yield piece
            at += len(piece)
            if self._progress:
                self._progress(at, self._size)
