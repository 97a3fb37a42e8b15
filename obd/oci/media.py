"""The media types of images: OCI's, and Docker's of before."""

from typing import Final

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = f"{OCI_LAYER}+gzip"
OCI_LAYER_ZSTD: Final = f"{OCI_LAYER}+zstd"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = f"{DOCKER_LAYER}.gzip"
DOCKER_LAYER_ZSTD: Final = f"{DOCKER_LAYER}.zstd"

MANIFESTS: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES: Final = (OCI_INDEX, DOCKER_LIST)
CONFIGS: Final = (OCI_CONFIG, DOCKER_CONFIG)

# What registries once sent, and we do not read.
SCHEMA1: Final = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

# Layers that registries do not hold: whoever wants them fetches them from their `urls`.
FOREIGN: Final = (
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
)


def compression(media_type: str) -> str:
    """How a layer's tar is compressed by its type: "gzip", "zstd", or "" for not at all or not known."""
    for name in ("gzip", "zstd"):
        if media_type.endswith((f"+{name}", f".{name}")):
            return name
    return ""


def layer_type(start: bytes) -> str:
    """The media type of a layer of which these are the first four bytes, or all if it has fewer."""
    if start.startswith(b"\x1f\x8b"):
        return OCI_LAYER_GZIP
    # A file of zstd may begin with a frame that is to be skipped: there are 16 numbers for such.
    is_skipped = start[1:] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50
    return OCI_LAYER_ZSTD if is_skipped or start == b"\x28\xb5\x2f\xfd" else OCI_LAYER
