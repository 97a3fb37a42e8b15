"""What a layer is by its descriptor: an archive of files, or a block device of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from obd.oci.digest import is_digest
from obd.oci.media import FOREIGN, compression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obd.oci.descriptor import Descriptor

PREFIX: Final = "containerd.io/snapshot/overlaybd/"
VERSION: Final = f"{PREFIX}version"
BLOB_DIGEST: Final = f"{PREFIX}blob-digest"
BLOB_SIZE: Final = f"{PREFIX}blob-size"
FS_TYPE: Final = f"{PREFIX}blob-fs-type"
TARGET_DIGEST: Final = f"{PREFIX}turbo-oci/target-digest"
TARGET_MEDIA_TYPE: Final = f"{PREFIX}turbo-oci/target-media-type"
ACCELERATION: Final = f"{PREFIX}acceleration-layer"
# What turboOCI was called before.
OLD_TARGET_DIGEST: Final = f"{PREFIX}fastoci/target-digest"
OLD_TARGET_MEDIA_TYPE: Final = f"{PREFIX}fastoci/target-media-type"

# Values of `VERSION`.
NATIVE_VERSION: Final = "0.1.0"
TURBO_VERSION: Final = "0.1.0-turbo.ociv1"

# `artifactType` of images that are conversions of their subject.
NATIVE_ARTIFACT: Final = "application/vnd.containerd.overlaybd.native.v1+json"
TURBO_ARTIFACT: Final = "application/vnd.containerd.overlaybd.turbo.v1+json"
# Those that a device can be made of, best first.
ARTIFACTS: Final = (NATIVE_ARTIFACT, TURBO_ARTIFACT)


def target_of(annotations: Mapping[str, str]) -> tuple[str, str]:
    """Digest and media type of the layer that a turboOCI layer is made for, each "" if it is none."""
    for digest, media_type in (
        (TARGET_DIGEST, TARGET_MEDIA_TYPE),
        (OLD_TARGET_DIGEST, OLD_TARGET_MEDIA_TYPE),
    ):
        if is_digest(annotations.get(digest)):
            return annotations[digest], annotations.get(media_type, "")
    return "", ""


def layer_kind(layer: Descriptor) -> str:
    """One of "overlaybd", "turboOCI", "acceleration", "tar", "gzip", "zstd" and "unknown"."""
    annotations = layer.annotations
    if target_of(annotations)[0]:
        return "turboOCI"
    if annotations.get(ACCELERATION) == "yes":
        return "acceleration"
    if annotations.get(BLOB_DIGEST) == layer.digest:
        return "overlaybd"
    if "tar" not in layer.media_type.rpartition("/")[2].replace("+", ".").split("."):
        return "unknown"
    return compression(layer.media_type) or "tar"


def is_foreign(layer: Descriptor) -> bool:
    """Whether registries do not hold the layer: it is fetched from where its `urls` say."""
    return layer.media_type in FOREIGN and bool(layer.extra.get("urls"))
