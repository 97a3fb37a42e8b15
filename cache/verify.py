"""The digest of a file or of bytes that come in order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final

ALGORITHMS: Final = {"sha256": 64, "sha512": 128}
_PIECE_BYTES: Final = 1 << 20
_HEX: Final = frozenset("0123456789abcdef")


class Hasher:
    """Compares bytes with a digest `<algorithm>:<hex>`."""

    def __init__(self, digest: str) -> None:
        """Raises `ValueError` for a digest that cannot be compared with."""
        algorithm, _, value = digest.partition(":")
        if len(value) != ALGORITHMS.get(algorithm) or not set(value) <= _HEX:
            raise ValueError(f"digest {digest[:80]!r}: only {' and '.join(ALGORITHMS)} can be checked")
        self._value: Final = value
        self._algorithm: Final = algorithm
        self._hash = hashlib.new(algorithm)

    def update(self, piece: memoryview | bytes) -> None:
        """The next bytes."""
        self._hash.update(piece)

    @property
    def found(self) -> str:
        """The digest of the bytes so far."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    @property
    def right(self) -> bool:
        """Whether these were the bytes."""
        return self._hash.hexdigest() == self._value

    def read(self, fd: int, length: int, proceed: Callable[[int], object]) -> bool:
        """Takes the first `length` bytes of a file, which leave the page cache again; false if it is shorter.

        `proceed(count)` is called after each piece, and may raise to end this.
        """
        buffer = memoryview(bytearray(min(length, _PIECE_BYTES)))
        at = 0
        while at < length:
            count = os.preadv(fd, [buffer[: length - at]], at)
            if count == 0:
                return False
            self.update(buffer[:count])
            os.posix_fadvise(fd, at, count, os.POSIX_FADV_DONTNEED)
            at += count
            proceed(count)
        return True
