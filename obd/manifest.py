"""The layers of an image that a device can be made of, and the configuration that opens it."""

from __future__ import annotations

from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Any

from obd.config import ImageConfig, Lower
from obd.config.image import is_digest
from obd.errors import ObdError
from obd.oci import fields
from obd.oci.layers import NATIVE_ARTIFACT, layer_kind
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.registry_source import RegistrySource
from obd.turbo_meta import META_DIR, Metas

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.platform import Platform
    from obd.oci.protocols import ImageSource
    from obd.reference import Reference
    from obd.registry import Registry


def overlaybd_layers(source: ImageSource, wanted: Platform) -> list[Descriptor]:
    """The overlaybd and turboOCI layers of an image, bottom first; of an index, those for `wanted`.

    Raises `ObdError`: "not-found", "denied", "corrupt" for what is no manifest, "unsupported" for an
    image without such layers.
    """
    found = parse_manifest(source.root()[1], where=source.name)
    if isinstance(found, Index):
        with fields.at(source.name):
            chosen = found.choose(wanted, NATIVE_ARTIFACT)
        found = parse_manifest(source.manifest(chosen), where=source.name)
    if not isinstance(found, Manifest):
        raise ObdError("unsupported", "an index within an index is no image", source.name)
    kinds = ("overlaybd", "turboOCI")
    layers = [layer for layer in found.layers if layer_kind(layer) in kinds and is_digest(layer.digest)]
    if not layers:
        raise ObdError("unsupported", f"{source.name}: no layer of the image is an overlaybd layer")
    return layers


def image_layers(registry: Registry, image: Reference, wanted: Platform) -> list[Descriptor]:
    """As `overlaybd_layers`, of an image in a registry."""
    with RegistrySource(registry, image) as source:
        return overlaybd_layers(source, wanted)


def image_config(
    registry: Registry, image: Reference, wanted: Platform, directory: str = META_DIR
) -> ImageConfig:
    """The configuration of a device that reads an image from its registry.

    Metadata of turboOCI layers is brought to directories below `directory`. Raises as `overlaybd_layers`, and
    `Metas.lower`.
    """
    with RegistrySource(registry, image) as source:
        metas = Metas(source, directory)
        lowers = [
            metas.lower(layer)
            if layer_kind(layer) == "turboOCI"
            else Lower(digest=layer.digest, size_bytes=layer.size)
            for layer in overlaybd_layers(source, wanted)
        ]
    return ImageConfig(repo_blob_url=f"{image.url}/blobs", lowers=tuple(lowers))


def document_of(config: ImageConfig) -> dict[str, Any]:
    """What the file of such a configuration holds."""
    lowers = [
        {field.metadata["key"]: value for field in fields_of(lower) if (value := getattr(lower, field.name))}
        for lower in config.lowers
    ]
    return {"repoBlobUrl": config.repo_blob_url, "lowers": lowers}
