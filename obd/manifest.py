"""The layers of an image that a device can be made of, and the configuration that opens it."""

from __future__ import annotations

from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Any

from obd.config import ImageConfig, Lower, Merkle
from obd.config.image import is_digest
from obd.errors import ObdError
from obd.oci import fields
from obd.oci.layers import ARTIFACTS, layer_kind
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.registry_source import RegistrySource
from obd.oci.trees import LayerTree, tree_of
from obd.turbo_meta import META_DIR, Metas

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.platform import Platform
    from obd.oci.protocols import ImageSource
    from obd.reference import Reference
    from obd.registry import Registry


def overlaybd_layers(source: ImageSource, wanted: Platform) -> list[Descriptor]:
    """The overlaybd and turboOCI layers of an image, bottom first; of an index, those for `wanted`.

    Those that say what to fetch in advance are left out. Raises `ObdError`: "not-found", "denied", "corrupt"
    for what is no manifest, "unsupported" for an image that has no such layers, or others too.
    """
    found = parse_manifest(source.root()[1], where=source.name)
    if isinstance(found, Index):
        with fields.at(source.name):
            chosen = found.choose(wanted, *ARTIFACTS)
        found = parse_manifest(source.manifest(chosen), where=source.name)
    if not isinstance(found, Manifest):
        raise ObdError("unsupported", "an index within an index is no image", source.name)
    kinds = [layer_kind(layer) for layer in found.layers]
    if not {"overlaybd", "turboOCI"} & set(kinds):
        raise ObdError("unsupported", f"{source.name}: no layer of the image is an overlaybd layer")
    layers = []
    for number, (layer, kind) in enumerate(zip(found.layers, kinds, strict=True), 1):
        if kind == "acceleration":
            continue
        # Without any one of them the device would show other files than the image has.
        if kind not in ("overlaybd", "turboOCI"):
            what = f"layer {number} is of kind {kind}, upon overlaybd layers: only containerd runs that"
            hint = "build it upon the image that these were converted from, and convert the result"
            raise ObdError("unsupported", f"{what}; {hint}", source.name)
        if not is_digest(layer.digest):
            what = f"layer {number}: a device has layers with SHA-256 digests, not {layer.digest}"
            raise ObdError("unsupported", what, source.name)
        layers.append(layer)
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
            metas.lower(layer) if layer_kind(layer) == "turboOCI" else lower_of(layer)
            for layer in overlaybd_layers(source, wanted)
        ]
    return ImageConfig(repo_blob_url=f"{image.url}/blobs", lowers=tuple(lowers))


def lower_of(layer: Descriptor) -> Lower:
    """A native layer as an image configuration has it, with the tree that its descriptor names."""
    return lower(layer.digest, layer.size, tree_of(layer))


def lower(digest: str, size_bytes: int, tree: LayerTree | None) -> Lower:
    """A native layer of a registry as an image configuration has it."""
    merkle = Merkle(root=tree.root, leaves=tree.leaves.digest, size_bytes=tree.leaves.size) if tree else None
    return Lower(digest=digest, size_bytes=size_bytes, merkle=merkle)


def document_of(config: ImageConfig) -> dict[str, Any]:
    """What the file of such a configuration holds."""
    return {"repoBlobUrl": config.repo_blob_url, "lowers": [_members(lower) for lower in config.lowers]}


def _members(table: Lower | Merkle) -> dict[str, Any]:
    values = {field.metadata["key"]: getattr(table, field.name) for field in fields_of(table)}
    return {
        key: _members(value) if isinstance(value, Merkle) else value for key, value in values.items() if value
    }
