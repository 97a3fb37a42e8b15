"""The labels by which containerd and its clients say what a snapshot is to be, and are told what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PREFIX: Final = "containerd.io/snapshot"
_OVERLAYBD: Final = f"{_PREFIX}/overlaybd"

TARGET: Final = f"{_PREFIX}.ref"
"""The chain ID that a layer being pulled is to be committed as."""
IMAGE_REFERENCES: Final = (f"{_PREFIX}/image-ref", f"{_PREFIX}/cri.image-ref")
TYPE: Final = f"{_PREFIX}/type"
REMOTE: Final = f"{_PREFIX}/remote"
BLOB_DIGEST: Final = f"{_OVERLAYBD}/blob-digest"
BLOB_SIZE: Final = f"{_OVERLAYBD}/blob-size"
FS_TYPE: Final = f"{_OVERLAYBD}/blob-fs-type"
LAYER_VERSION: Final = f"{_OVERLAYBD}/version"
ACCELERATION: Final = f"{_OVERLAYBD}/acceleration-layer"
RECORD_TRACE: Final = f"{_OVERLAYBD}/record-trace"
TRACE_PATH: Final = f"{_OVERLAYBD}/record-trace-path"
TARGET_DIGESTS: Final = (f"{_OVERLAYBD}/turbo-oci/target-digest", f"{_OVERLAYBD}/fastoci/target-digest")
TARGET_MEDIA_TYPES: Final = (
    f"{_OVERLAYBD}/turbo-oci/target-media-type",
    f"{_OVERLAYBD}/fastoci/target-media-type",
)
DOWNLOAD: Final = f"{_OVERLAYBD}/download-remote-blob"
SIZE_GIB: Final = f"{_OVERLAYBD}/vsize"
WRITABLE: Final = f"{_OVERLAYBD}.writable"
COMMIT_PATH: Final = f"{_OVERLAYBD}.localcommitpath"
QUOTA: Final = f"{_PREFIX}/disk_quota"


def first(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The value of the first label that is there, "" if none is."""
    return next((labels[name] for name in names if labels.get(name)), "")


def is_turbo(labels: Mapping[str, str]) -> bool:
    """Whether a layer is turboOCI's: metadata over an original layer."""
    return bool(first(labels, TARGET_DIGESTS))
