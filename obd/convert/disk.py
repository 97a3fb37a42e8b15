"""A whole disk, raw or qcow2, as the one layer of an image."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import obdcore

if TYPE_CHECKING:
    from collections.abc import Callable


def disk_format(path: str) -> str:
    """The format of the disk image `path`, "raw" or "qcow2"; "" for a file that is none.

    A raw one has partitions or a file system that a root can have, or is a block device. Raises
    `obdcore.Error`: "unsupported", with what helps, for the formats of other programs; those of reading.
    """
    with open(path, "rb", buffering=0) as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and os.fstat(file.fileno()).st_size == 0:
            return ""
        disk = obdcore.DiskImage(file.fileno(), without_backing=True)
        if disk.format == "raw" and not stat.S_ISBLK(mode):
            return "raw" if disk.partitions() or disk.file_system() else ""
        return disk.format


def layer_of_disk(
    path: str,
    out_fd: int,
    compress: Mapping[str, Any] | None,
    *,
    rootfs: bool = False,
    tar: bool = True,
    format: str | None = None,
    without_backing: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Makes a layer, wrapped in a tar, of the disk image `path` in the empty file `out_fd`.

    Equal disks give equal layers, whatever the formats of their images. `rootfs`: of the root partition
    alone. `format` and `without_backing` are for `obdcore.DiskImage`. Returns what `obdcore.lsmt_commit`
    returns, and `format`, `file_system` ("" for a disk with partitions, or an unknown one), `partition`: the
    number of the one that was taken, None for all. Raises `obdcore.Error`.
    """
    with open(path, "rb", buffering=0) as file:
        disk = obdcore.DiskImage(file.fileno(), format=format, without_backing=without_backing)
    partition, kind = None, None
    if rootfs:
        disk, partition, kind = disk.root()
    elif not without_backing and not disk.partitions():
        kind = disk.file_system()
    done = disk.to_layer(out_fd, compress=compress, tar=tar, progress=progress)
    return {**done, "format": disk.format, "file_system": kind or "", "partition": partition}
