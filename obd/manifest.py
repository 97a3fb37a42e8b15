"""The layers of an image in a registry that a device can be made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obd.config import Lower
from obd.config.image import is_digest
from obd.errors import ObdError
from obd.oci import fields
from obd.oci.layers import layer_kind
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.registry_source import RegistrySource

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.platform import Platform
    from obd.oci.protocols import ImageSource
    from obd.reference import Reference
    from obd.registry import Registry


def image_layers(registry: Registry, image: Reference, wanted: Platform) -> list[Lower]:
    """The overlaybd layers of an image, bottom first; of an index, those for `wanted`.

    Raises `ObdError`: "not-found", "denied", "corrupt" for what is no manifest, "unsupported" for an
    image without such layers.
    """
    with RegistrySource(registry, image) as source:
        layers = overlaybd_layers(source, wanted)
    return [Lower(digest=layer.digest, size_bytes=layer.size) for layer in layers]


def overlaybd_layers(source: ImageSource, wanted: Platform) -> list[Descriptor]:
    """As `image_layers`, of an image from anywhere, as it describes them."""
    found = parse_manifest(source.root()[1], where=source.name)
    if isinstance(found, Index):
        with fields.at(source.name):
            chosen = found.choose(wanted)
        found = parse_manifest(source.manifest(chosen), where=source.name)
    if not isinstance(found, Manifest):
        raise ObdError("unsupported", "an index within an index is no image", source.name)
    layers = [layer for layer in found.layers if layer_kind(layer) == "overlaybd" and is_digest(layer.digest)]
    if not layers:
        raise ObdError("unsupported", f"{source.name}: no layer of the image is an overlaybd layer")
    return layers
