"""What there is to say of an image: its platforms, its layers and what each is, how it wants to be run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from obd.errors import ObdError
from obd.oci import fields
from obd.oci.copy import chosen
from obd.oci.layers import FS_TYPE, PREFIX, VERSION, layer_kind, target_of
from obd.oci.limits import MAX_MANIFEST_BYTES
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.media import CONFIGS
from obd.oci.trees import tree_of

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.platform import Platform
    from obd.oci.protocols import ImageSource

# Of the configuration, by the names that the specification has for them.
_RUN: Final = (
    "User",
    "WorkingDir",
    "Entrypoint",
    "Cmd",
    "Env",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
    "Labels",
)


def summary(source: ImageSource, wanted: Platform) -> dict[str, Any]:
    """Of what `source` names: all of an index, and of one image (that for `wanted`) layers and configuration.

    Without an image for `wanted` there is no `image` in it. Raises `OSError` as sources do.
    """
    root, data = source.root()
    found = parse_manifest(data, root.media_type, source.name)
    about: dict[str, Any] = {"name": source.name, "digest": root.digest, "mediaType": root.media_type}
    about |= _common(found)
    if isinstance(found, Index):
        about["manifests"] = [_entry(entry) for entry in found.manifests]
    if referrers := _referrers(source, root):
        about["referrers"] = referrers
    try:
        descriptor, data = chosen(source, root, data, wanted)
    except ObdError as error:
        if error.kind != "not-found":
            raise
        return about
    image = parse_manifest(data, descriptor.media_type, source.name)
    if isinstance(image, Manifest):
        about["image"] = _image(source, descriptor, image)
    return about


def _referrers(source: ImageSource, root: Descriptor) -> list[dict[str, Any]]:
    """What refers to the image, such as a conversion of it; nothing where the place cannot say."""
    try:
        return [_entry(entry) for entry in source.referrers(root)]
    except ObdError:
        return []


def _image(source: ImageSource, descriptor: Descriptor, manifest: Manifest) -> dict[str, Any]:
    about: dict[str, Any] = {"digest": descriptor.digest, "mediaType": manifest.media_type}
    about |= _common(manifest)
    about["config"] = _config(source, manifest.config)
    about["layers"] = [_layer(layer) for layer in manifest.layers]
    about["size"] = sum(layer.size for layer in manifest.layers)
    return about


def _common(manifest: Manifest | Index) -> dict[str, Any]:
    about: dict[str, Any] = {}
    if manifest.artifact_type:
        about["artifactType"] = manifest.artifact_type
    if manifest.subject:
        about["subject"] = manifest.subject.digest
    if manifest.annotations:
        about["annotations"] = dict(manifest.annotations)
    return about


def _entry(entry: Descriptor) -> dict[str, Any]:
    about: dict[str, Any] = {"platform": str(entry.platform) if entry.platform else None}
    about |= {"digest": entry.digest, "size": entry.size, "mediaType": entry.media_type}
    if entry.artifact_type:
        about["artifactType"] = entry.artifact_type
    return about | ({"annotations": dict(entry.annotations)} if entry.annotations else {})


def _layer(layer: Descriptor) -> dict[str, Any]:
    about: dict[str, Any] = {"kind": layer_kind(layer), "digest": layer.digest, "size": layer.size}
    about["mediaType"] = layer.media_type
    annotations = layer.annotations
    for name, key in (("version", VERSION), ("fsType", FS_TYPE)):
        if annotations.get(key):
            about[name] = annotations[key]
    if target_of(annotations)[0]:
        about["target"] = target_of(annotations)[0]
    if tree := tree_of(layer):
        about["tree"] = tree.root
    others = {key: value for key, value in annotations.items() if not key.startswith(PREFIX)}
    return about | ({"annotations": others} if others else {})


def _config(source: ImageSource, descriptor: Descriptor) -> dict[str, Any]:
    """What the configuration says that matters; what is not of the right type is left out."""
    about: dict[str, Any] = {"digest": descriptor.digest, "mediaType": descriptor.media_type}
    if descriptor.media_type not in CONFIGS:
        return about
    if descriptor.size > MAX_MANIFEST_BYTES:
        raise ObdError("limit", f"a configuration of {descriptor.size} bytes", source.name)
    with source.blob(descriptor) as stream:
        data = stream.read(descriptor.size + 1)
    found = fields.parse(data, "configuration")
    for key in ("os", "architecture", "variant", "created", "author"):
        if isinstance(found.get(key), str):
            about[key] = found[key]
    inner = found.get("config")
    if isinstance(inner, dict):
        about |= {key: inner[key] for key in _RUN if inner.get(key)}
    return about
