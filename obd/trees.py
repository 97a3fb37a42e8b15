"""What the bytes of a lower are held against: its hash tree, as the host wants it and the image has it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import obdcore
from obd.errors import ObdError, kind_of, line_of
from obd.oci.trees import MAX_LIST_BYTES

if TYPE_CHECKING:
    from obd.config import Lower
    from obd.registry import Registry

_log: Final = logging.getLogger("overlaybd.service")

# Times that a list of leaves is fetched which does not come down to its root.
_ATTEMPTS: Final = 3


def wanted_tree(
    mode: str, lower: Lower, url: str, registry: Registry, cache: obdcore.ChunkCache | None
) -> obdcore.MerkleTree | None:
    """The tree of `lower` by `mode`, a value of `verifyChunks`; None if it is to be read without.

    `url` is where a registry has the lower, "" for nowhere: its leaves are beside it. Raises `OSError`: a
    tree that proves wrong is "corrupt" whatever the mode; with "required", a lower with a digest but without
    a tree is "denied".
    """
    if mode == "off":
        return None
    if lower.merkle is None:
        if mode == "required" and lower.digest:
            raise ObdError("denied", "it has no hash tree, and verifyChunks is required", lower.digest)
        return None
    try:
        return _read(lower, url, registry, cache)
    except OSError as error:
        if mode == "required" or kind_of(error) != "not-found":
            raise
        _log.warning("%s is read without its hash tree: %s", lower.digest or lower.file, line_of(error))
        return None


def _read(lower: Lower, url: str, registry: Registry, cache: obdcore.ChunkCache | None) -> obdcore.MerkleTree:
    merkle = lower.merkle
    assert merkle is not None
    root = merkle.root.partition(":")[2]
    if merkle.file:
        try:
            with open(merkle.file, "rb") as file:
                return obdcore.MerkleTree(file.read(MAX_LIST_BYTES + 1), root)
        except OSError as error:
            if not merkle.leaves or not url:
                kind = kind_of(error)
                raise ObdError(kind, f"its leaves cannot be read: {line_of(error)}", merkle.file) from None
            _log.warning("%s: %s; reading the leaves from the registry", merkle.file, line_of(error))
    if not merkle.leaves or not url:
        raise ObdError("not-found", "nothing says where its leaves are", lower.digest or lower.file)
    beside = f"{url.rpartition('/')[0]}/{merkle.leaves}"
    # Without a layer directory: what is no layer has no place there.
    blob = registry.open_blob(beside, size=merkle.size_bytes, cache=cache)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return obdcore.MerkleTree(blob.read_at(0, merkle.size_bytes), root)
        except obdcore.Error as error:
            if error.kind != "corrupt" or attempt == _ATTEMPTS or not blob.distrust(0, merkle.size_bytes):
                raise ObdError(error.kind, f"the leaves of its hash tree: {line_of(error)}", beside) from None
    raise AssertionError
