"""Uploads blobs and a manifest to a registry, so that layers on this machine become an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from obd.errors import about
from obd.oci import fields
from obd.oci.descriptor import Descriptor
from obd.oci.layers import BLOB_DIGEST, BLOB_SIZE, NATIVE_VERSION, VERSION
from obd.oci.manifest import Manifest
from obd.oci.media import OCI_CONFIG, OCI_LAYER
from obd.oci.registry_destination import RegistryDestination
from obd.oci.upload import PART_BYTES
from obd.reference import Reference

if TYPE_CHECKING:
    from obd.oci.protocols import Progress
    from obd.registry import Registry


class Repository:
    """One repository to push into, such as `https://registry.example/v2/team/app`.

    `part_bytes` is what one request carries at most. All methods raise `ObdError`: "denied", "io",
    "timed-out", or "invalid" for what the registry does not take and for answers that make no sense.
    """

    def __init__(self, registry: Registry, url: str, *, part_bytes: int = PART_BYTES) -> None:
        self._there: Final = RegistryDestination(registry, Reference(url, "", ""), part_bytes=part_bytes)

    def push_file(self, path: str, progress: Progress | None = None) -> Descriptor:
        """Uploads the file `path` unless it is there; `progress(done, total)` counts bytes of the upload."""
        with about(path), open(path, "rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            layer = Descriptor(OCI_LAYER, digest, os.fstat(file.fileno()).st_size)
            self._there.put_blob(layer, path, progress)
        return layer

    def push_bytes(self, data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
        """Uploads a blob that is in memory."""
        blob = Descriptor.of(data, media_type)
        self._there.put_blob(blob, data)
        return blob

    def push_manifest(
        self, tag: str, layers: Sequence[Descriptor], *, architecture: str = "amd64"
    ) -> Descriptor:
        """Makes `tag` an image of overlaybd layers, bottom first, which have been pushed before."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            # The tar of a layer is not compressed as such, so the diff ID is the digest of the blob.
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
        pushed = self.push_bytes(fields.encode(config), OCI_CONFIG)
        manifest = Manifest(pushed, tuple(map(_layer, layers)))
        self._there.put_manifest(manifest.descriptor(), manifest.encode(), tag)
        return manifest.descriptor()


def _layer(layer: Descriptor) -> Descriptor:
    annotations = {
        VERSION: NATIVE_VERSION,
        BLOB_DIGEST: layer.digest,
        BLOB_SIZE: str(layer.size),
    }
    return replace(layer, media_type=OCI_LAYER, annotations=annotations)
