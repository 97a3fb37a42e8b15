"""The labels by which containerd and its clients say what a snapshot is to be, and are told what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# What annotations of layers say too: containerd hands them on as labels.
from obd.oci.layers import ACCELERATION, BLOB_DIGEST, BLOB_SIZE, FS_TYPE, target_of

__all__ = ("ACCELERATION", "BLOB_DIGEST", "BLOB_SIZE", "FS_TYPE", "target_of")

_PREFIX: Final = "containerd.io/snapshot"
_OVERLAYBD: Final = f"{_PREFIX}/overlaybd"

TARGET: Final = f"{_PREFIX}.ref"
"""The chain ID that a layer being pulled is to be committed as."""
IMAGE_REFERENCE: Final = f"{_PREFIX}/image-ref"
"""The image, as those say who pull it (`rpull`)."""
IMAGE_REFERENCES: Final = (f"{_PREFIX}/cri.image-ref", IMAGE_REFERENCE)
"""The same with Kubernetes' label, which is its own whenever it is there: the other may be an annotation."""
TYPE: Final = f"{_PREFIX}/type"
REMOTE: Final = f"{_PREFIX}/remote"
RECORD_TRACE: Final = f"{_OVERLAYBD}/record-trace"
TRACE_PATH: Final = f"{_OVERLAYBD}/record-trace-path"
DOWNLOAD: Final = f"{_OVERLAYBD}/download-remote-blob"
QUOTA: Final = f"{_PREFIX}/disk_quota"
SIZE_GIB: Final = f"{_OVERLAYBD}/vsize"
WRITABLE: Final = f"{_OVERLAYBD}.writable"
COMMIT_PATH: Final = f"{_OVERLAYBD}.localcommitpath"


def first(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The value of the first label that is there, "" if none is."""
    return next((labels[name] for name in names if labels.get(name)), "")
