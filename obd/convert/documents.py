"""The documents of a converted image: configuration, manifest and index, made of those of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from obd.convert.options import Options
from obd.convert.plan import REFERENCE_DIGEST, ImagePlan, Step, is_attached
from obd.convert.record import Made
from obd.oci.descriptor import Descriptor
from obd.oci.fields import encode
from obd.oci.layers import (
    BLOB_DIGEST,
    BLOB_SIZE,
    FS_TYPE,
    NATIVE_ARTIFACT,
    NATIVE_VERSION,
    TARGET_DIGEST,
    TARGET_MEDIA_TYPE,
    TURBO_ARTIFACT,
    TURBO_VERSION,
    VERSION,
)
from obd.oci.manifest import Index, Manifest
from obd.oci.media import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, compression
from obd.oci.trees import LayerTree

# Of the new manifest or index: what it was made of, and how. Both the same: there is nothing to be done.
SOURCE: Final = "overlaybd.convert.source"
PARAMETERS: Final = "overlaybd.convert.parameters"
# Annotations of layers that say what is in them; others speak of the blob, which is another one now.
_OF_CONTENT: Final = "org.opencontainers.image."


def layer_descriptor(step: Step, made: Made, fs: str, tree: LayerTree | None = None) -> Descriptor:
    """A converted layer as the manifest names it: by these annotations snapshotters know it."""
    own = {key: value for key, value in step.source.annotations.items() if key.startswith(_OF_CONTENT)}
    own |= {BLOB_DIGEST: made.digest, BLOB_SIZE: str(made.size)}
    if made.kind == "turbo":
        own |= {
            VERSION: TURBO_VERSION,
            TARGET_DIGEST: step.source.digest,
            TARGET_MEDIA_TYPE: _target_type(step.source.media_type, gzip=made.gzip),
        }
        return Descriptor(OCI_LAYER_GZIP, made.digest, made.size, own)
    own |= {VERSION: NATIVE_VERSION, FS_TYPE: fs} | (tree.annotations if tree else {})
    return Descriptor(OCI_LAYER, made.digest, made.size, own)


def _target_type(media_type: str, *, gzip: bool) -> str:
    """The media type of an original by what it is: `media_type`, if that is true."""
    if compression(media_type) == ("gzip" if gzip else ""):
        return media_type
    return OCI_LAYER_GZIP if gzip else OCI_LAYER


def config_of(config: Mapping[str, Any], diff_ids: Sequence[str]) -> bytes:
    """The configuration with other layers, and all else as it was: there is one for each that there was."""
    return encode({**config, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}})


def manifest_of(plan: ImagePlan, config: bytes, layers: Sequence[Descriptor], options: Options) -> Manifest:
    """The manifest of a converted image."""
    return Manifest(
        Descriptor.of(config, OCI_CONFIG),
        tuple(layers),
        {**plan.manifest.annotations, **made_of(plan.entry.digest, options)},
        OCI_MANIFEST,
        _subject(plan.entry) if options.referrer else None,
        artifact_type(options) if options.referrer else "",
    )


def made_of(source: str, options: Options) -> dict[str, str]:
    """The annotations that say of what, and how, something was made."""
    return {SOURCE: source, PARAMETERS: options.said()}


def artifact_type(options: Options) -> str:
    """What a converted image is called among the referrers of the original."""
    return TURBO_ARTIFACT if options.turbo else NATIVE_ARTIFACT


def _subject(entry: Descriptor) -> Descriptor:
    return Descriptor(entry.media_type, entry.digest, entry.size)


def index_of(source: Index, root: Descriptor, made: Mapping[str, Descriptor], options: Options) -> Index:
    """The index of converted images; `made` has them by the digests of their originals.

    What says something of an image that was converted is kept, and now speaks of the new one.
    """
    entries = []
    for entry in source.manifests:
        if entry.digest in made:
            entries.append(converted_entry(entry, made[entry.digest]))
        elif is_attached(entry) and entry.annotations.get(REFERENCE_DIGEST) in made:
            new = made[entry.annotations[REFERENCE_DIGEST]].digest
            annotations = {**entry.annotations, REFERENCE_DIGEST: new}
            entries.append(
                Descriptor(entry.media_type, entry.digest, entry.size, annotations, entry.platform)
            )
    return Index(
        tuple(entries),
        {**source.annotations, **made_of(root.digest, options)},
        OCI_INDEX,
        _subject(root) if options.referrer else None,
        artifact_type(options) if options.referrer else "",
    )


def converted_entry(entry: Descriptor, new: Descriptor) -> Descriptor:
    """The entry of a converted image in place of its original's."""
    return Descriptor(new.media_type, new.digest, new.size, entry.annotations, entry.platform)
