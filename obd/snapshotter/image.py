"""What device a snapshot has: its `config.v1.json`, made of the parent's and what is its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from obd.config import ConfigError
from obd.config.image import is_digest
from obd.config.strict_json import read_object
from obd.oci.trees import tree_by_labels
from obd.reference import parse_reference
from obd.replace import replace_file
from obd.snapshotter import labels as L
from obd.snapshotter.config import Mirror
from obd.snapshotter.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, SnapshotError
from obd.snapshotter.layout import Layout
from obd.turbo.pack import GZIP_INDEX

# Sizes of writable layers in GiB: what upstream makes if nobody says, and what is surely a mistake.
DEFAULT_GIB: Final = 64
MAX_GIB: Final = 1 << 20

# The beginnings of files that are layers: LSMT, zfile, and a tar around them, of ours or of another writer.
_MAGICS: Final = (b"LSMT\0\1\2\0", b"ZFile\0\1\0", b"overlaybd.pax\0", b"overlaybd.commit\0")


def blobs_url(reference: str, mirrors: tuple[Mirror, ...]) -> str:
    """Where the blobs of an image are. Raises `SnapshotError` for what names no image."""
    found = parse_reference(reference)
    if found is None:
        raise SnapshotError(INVALID_ARGUMENT, f"{reference!r} is no reference of an image")
    scheme, _, rest = found.url.partition("://")
    host = rest.partition("/")[0]
    if any(mirror.insecure and mirror.host == host for mirror in mirrors):
        scheme = "http"
    return f"{scheme}://{rest}/blobs"


def is_layer(path: str) -> bool:
    """Whether a file is a layer of ours, by its first bytes: bare, compressed or in a tar."""
    try:
        with open(path, "rb") as file:
            return file.read(max(map(len, _MAGICS))).startswith(_MAGICS)
    except (FileNotFoundError, NotADirectoryError):
        return False


def remote_lower(layer: Mapping[str, str], directory: str) -> dict[str, Any]:
    """A layer that stays in its registry, by the labels of its snapshot. Raises `SnapshotError`."""
    digest, size = layer.get(L.BLOB_DIGEST, ""), layer.get(L.BLOB_SIZE, "")
    if not is_digest(digest):
        raise SnapshotError(INVALID_ARGUMENT, f"{L.BLOB_DIGEST}: {digest!r} must be sha256:<64 hex digits>")
    if not size.isdecimal() or not 0 < int(size) < 1 << 63:
        raise SnapshotError(INVALID_ARGUMENT, f"{L.BLOB_SIZE}: {size!r} must be a number of bytes")
    found: dict[str, Any] = {"digest": digest, "size": int(size), "dir": directory}
    if tree := tree_by_labels(layer):
        found["merkle"] = {"root": tree.root, "leaves": tree.leaves.digest, "size": tree.leaves.size}
    return found


def turbo_lower(layer: Mapping[str, str], directory: str, fs_types: tuple[str, ...]) -> dict[str, Any]:
    """A turboOCI layer that was unpacked to `directory`. Raises `SnapshotError`."""
    target, _ = L.target_of(layer)
    for fs_type in fs_types:
        meta = os.path.join(directory, f"{fs_type}.fs.meta")
        if os.path.isfile(meta):
            break
    else:
        wanted = " or ".join(f"{each}.fs.meta" for each in fs_types)
        raise SnapshotError(FAILED_PRECONDITION, f"{directory}: a layer of turboOCI without {wanted}")
    lower = {"dir": directory, "file": meta, "targetDigest": target}
    # Whatever the target's media type says: there is an index if the target was found to need one.
    index = os.path.join(directory, GZIP_INDEX)
    return {**lower, "gzipIndex": index} if os.path.isfile(index) else lower


class Images:
    """The configurations of a tree of snapshots."""

    def __init__(self, layout: Layout, fs_types: tuple[str, ...]) -> None:
        self._layout: Final = layout
        self._fs_types: Final = fs_types

    def read(self, number: int) -> dict[str, Any] | None:
        """The configuration of a snapshot, None if it has none. Raises `SnapshotError` for a broken one."""
        try:
            return read_object(self._layout.config(number))
        except ConfigError as error:
            if not os.path.exists(self._layout.config(number)):
                return None
            raise SnapshotError(FAILED_PRECONDITION, str(error)) from error

    def is_block(self, number: int) -> bool:
        """Whether a snapshot has a device."""
        return os.path.exists(self._layout.config(number))

    def serves(self, number: int, to: int) -> bool:
        """Whether the snapshot `to` is upon the device of another one, which may be younger than it."""
        if not self.is_block(number):
            return False
        try:
            with open(self._layout.since(number), encoding="ascii") as file:
                return to > int(file.read())
        except FileNotFoundError:
            return True

    def is_unpacked(self, number: int) -> bool:
        """Whether the files of a layer lie in a directory, whatever was made of them since."""
        return not self.is_block(number) or os.path.exists(self._layout.since(number))

    def write_converted(self, number: int, paths: Sequence[str], newest: int) -> None:
        """Gives an unpacked image a device of the layers `paths`, for snapshots younger than `newest`."""
        replace_file(self._layout.since(number), str(newest).encode(), 0o600)
        document = {
            "repoBlobUrl": "",
            "lowers": [{"file": path} for path in paths],
            "upper": {},
            "resultFile": self._layout.result(number),
        }
        replace_file(self._layout.config(number), json.dumps(document).encode(), 0o600)
        with suppress(FileNotFoundError):
            os.unlink(self._layout.wish(number))

    def turbo_types(self, parent: int | None) -> tuple[str, ...]:
        """File systems that a turboOCI layer may have: that of the layers below it, if there are any."""
        for lower in (self.read(parent) or {}).get("lowers", []) if parent is not None else []:
            name = os.path.basename(str(lower.get("file", "")))
            if name.endswith(".fs.meta"):
                return (name.removesuffix(".fs.meta"),)
        return self._fs_types

    def write(
        self,
        number: int,
        parent: int | None,
        *,
        url: str = "",
        lower: Mapping[str, Any] | None = None,
        upper: Mapping[str, Any] | None = None,
        accelerated: bool = False,
        trace: str = "",
    ) -> None:
        """Writes the configuration of a snapshot: the layers of its parent, and one more.

        If `accelerated`, that one says what to fetch in advance. `trace`: the file to record accesses to.
        """
        below = (self.read(parent) or {}) if parent is not None else {}
        lowers = list(below.get("lowers", []))
        if below.get("accelerationLayer"):
            lowers.pop()  # it is the topmost, or nothing
        document: dict[str, Any] = {
            "repoBlobUrl": url or below.get("repoBlobUrl", ""),
            "lowers": [*lowers, *([lower] if lower else [])],
            "upper": dict(upper or {}),
            "resultFile": self._layout.result(number),
        }
        if accelerated:
            document["accelerationLayer"] = True
        if trace:
            document["recordTracePath"] = trace
        replace_file(self._layout.config(number), json.dumps(document).encode(), 0o600)

    def has_layer(self, number: int) -> bool:
        """Whether a layer lies in the directory of a snapshot, as a whole."""
        names = ("overlaybd.commit", "overlaybd.sealed")
        return any(is_layer(os.path.join(self._layout.fs(number), name)) for name in names)
