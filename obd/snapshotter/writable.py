"""The writable layer of a snapshot: made, and sealed when the snapshot is committed."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import obdcore
from obd.replace import sync_directory
from obd.snapshotter import labels as L
from obd.snapshotter.errors import INVALID_ARGUMENT, UNAVAILABLE, SnapshotError
from obd.snapshotter.image import DEFAULT_GIB, MAX_GIB, is_layer

if TYPE_CHECKING:
    from obd.snapshotter.layout import Layout
    from obd.snapshotter.records import Snapshot

_GIB: Final = 1 << 30


def create(layout: Layout, snapshot: Snapshot, above: int | None, *, sparse: bool) -> dict[str, str]:
    """Makes the files of a writable layer; what a configuration says of it. Raises `SnapshotError`.

    Without a parent its size is that of the label, else that of the layers below.
    """
    data, index = layout.upper(snapshot.id)
    size = 0 if above is not None else _size_gib(snapshot.labels.get(L.SIZE_GIB, "")) * _GIB
    try:
        obdcore.lsmt_create(data, index, size=size, sparse=sparse)
    except OSError as error:
        raise SnapshotError(UNAVAILABLE, f"snapshot {snapshot.id}: no writable layer: {error}") from error
    return {"index": index, "data": data}


def _size_gib(told: str) -> int:
    size = int(told) if told.isdecimal() else DEFAULT_GIB
    if not 0 < size <= MAX_GIB:
        raise SnapshotError(INVALID_ARGUMENT, f"{L.SIZE_GIB}: {told!r} must be 1 to {MAX_GIB}")
    return size


def is_sealed(layout: Layout, number: int) -> bool:
    """Whether the writable layer of a snapshot has been sealed and is where it belongs."""
    return is_layer(_sealed(layout, number))


def seal(layout: Layout, number: int) -> str:
    """Makes the writable layer one to be read; its path. Can be repeated after a crash at any step."""
    data, index = layout.upper(number)
    sealed = _sealed(layout, number)
    if not os.path.exists(sealed):
        if os.path.exists(index):
            try:
                obdcore.lsmt_seal(data, index)
            except OSError as error:
                raise SnapshotError(UNAVAILABLE, f"snapshot {number}: cannot be sealed: {error}") from error
        os.rename(data, sealed)
        # Not left to the sync of the configuration, which is in another directory.
        sync_directory(sealed)
    with suppress(FileNotFoundError):
        os.unlink(index)
    return sealed


def _sealed(layout: Layout, number: int) -> str:
    return os.path.join(layout.fs(number), "overlaybd.sealed")
