"""Digests: which are understood, and streams that prove theirs at their end."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, BinaryIO, Final

from obd.errors import ObdError, about

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash

    from obd.oci.descriptor import Descriptor

_HEX: Final = frozenset("0123456789abcdef")
# Digits by algorithm: those that the OCI registers.
_DIGITS: Final = {"sha256": 64, "sha512": 128}


def is_digest(text: object) -> bool:
    """Whether `text` is a digest that can be checked: an algorithm known here and its lower-case hex digits.

    What is one holds nothing that a path or a URL would not take.
    """
    if not isinstance(text, str):
        return False
    algorithm, _, digits = text.partition(":")
    return len(digits) == _DIGITS.get(algorithm) and set(digits) <= _HEX


def hasher(digest: str) -> _Hash:
    """What computes digests of the algorithm of `digest`, which `is_digest` has taken."""
    return hashlib.new(digest.partition(":")[0], usedforsecurity=False)


def digest_of(data: bytes) -> str:
    """The digest that we give to new content."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain ID up to each layer, bottom first, as the OCI image specification defines it.

    The first may be a chain ID instead, of the layers below.
    """
    found: list[str] = []
    for diff_id in diff_ids:
        found.append(digest_of(f"{found[-1]} {diff_id}".encode()) if found else diff_id)
    return found


def check(data: bytes, descriptor: Descriptor, where: str) -> bytes:
    """`data` if it is what `descriptor` names; else `ObdError` "corrupt" that says `where` it comes from."""
    if len(data) != descriptor.size:
        what = f"{len(data)} bytes, {descriptor.digest} has {descriptor.size}"
        raise ObdError("corrupt", what, where)
    proof = hasher(descriptor.digest)
    proof.update(data)
    _compare(proof, descriptor, where)
    return data


class Verified(io.RawIOBase):
    """A stream that raises `ObdError` "corrupt" in place of its end if it is not what `descriptor` names.

    Nothing beyond the size of the descriptor is read but one byte. `where` names the place in messages.
    """

    def __init__(self, stream: BinaryIO, descriptor: Descriptor, where: str) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._where = where
        self._hash = hasher(descriptor.digest)
        self._count = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As `io.RawIOBase.readinto`; besides what the stream raises also `ObdError` "corrupt"."""
        left = self._descriptor.size - self._count
        view = memoryview(buffer).cast("B")
        if not view:
            return 0
        # At the end one byte more is asked for: a stream that goes on is not what was named.
        with about(self._where):
            data = self._stream.read(min(len(view), left) or 1)
        if not data:
            if left:
                what = (
                    f"ends after {self._count} bytes, {self._descriptor.digest} has {self._descriptor.size}"
                )
                raise ObdError("corrupt", what, self._where)
            _compare(self._hash, self._descriptor, self._where)
            return 0
        if not left:
            what = f"goes on beyond the {self._descriptor.size} bytes of {self._descriptor.digest}"
            raise ObdError("corrupt", what, self._where)
        view[: len(data)] = data
        self._hash.update(data)
        self._count += len(data)
        return len(data)

    def close(self) -> None:
        """Closes the stream too."""
        self._stream.close()
        super().close()


def _compare(found: _Hash, descriptor: Descriptor, where: str) -> None:
    algorithm, _, digits = descriptor.digest.partition(":")
    if found.hexdigest() != digits:
        raise ObdError(
            "corrupt", f"the bytes are {algorithm}:{found.hexdigest()}, not {descriptor.digest}", where
        )
