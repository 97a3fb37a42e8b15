"""Hash trees, written from docs/formats/merkle.md alone: plain, and slow."""

import hashlib
import struct

LEAF_BYTES = 65536


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _head(data: bytes) -> bytes:
    return b"OBDMERK1" + struct.pack("<QQ", LEAF_BYTES, len(data))


def _leaves(data: bytes) -> list[bytes]:
    return [_hash(b"\0", data[at : at + LEAF_BYTES]) for at in range(0, len(data), LEAF_BYTES)]


def _top(leaves: list[bytes]) -> bytes:
    """The largest power of two below the number of leaves is on the left."""
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return _hash(b"\1", _top(leaves[:left]), _top(leaves[left:]))


def leaves_of(data: bytes) -> bytes:
    """The list of the leaves of a blob."""
    return _head(data) + b"".join(_leaves(data))


def root_of(data: bytes) -> str:
    """The root of its tree, in hex digits."""
    return _hash(b"\2", _head(data), _top(_leaves(data))).hex()
