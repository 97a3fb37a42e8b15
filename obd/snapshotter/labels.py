"""The labels by which containerd and its clients say what a snapshot is to be, and are told what it is."""

from __future__ import annotations

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
"""That, and what Kubernetes says."""
TYPE: Final = f"{_PREFIX}/type"
REMOTE: Final = f"{_PREFIX}/remote"
RECORD_TRACE: Final = f"{_OVERLAYBD}/record-trace"
TRACE_PATH: Final = f"{_OVERLAYBD}/record-trace-path"
DOWNLOAD: Final = f"{_OVERLAYBD}/download-remote-blob"
QUOTA: Final = f"{_PREFIX}/disk_quota"
SIZE_GIB: Final = f"{_OVERLAYBD}/vsize"
WRITABLE: Final = f"{_OVERLAYBD}.writable"
COMMIT_PATH: Final = f"{_OVERLAYBD}.localcommitpath"
