"""Documents of what was converted, put into the destination, the tag last; or found there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from obd.convert.documents import (
    SOURCE,
    config_of,
    index_of,
    layer_descriptor,
    made_of,
    manifest_of,
)
from obd.convert.options import ImageResult, LayerResult, Result
from obd.convert.plan import is_attached
from obd.oci.descriptor import Descriptor
from obd.oci.manifest import Index, Manifest, parse_manifest

if TYPE_CHECKING:
    from obd.convert.options import Options
    from obd.convert.plan import ImagePlan
    from obd.convert.record import Made
    from obd.oci.protocols import ImageDestination, ImageSource


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the source is to be converted: entries of its index, or all that it is (`index` None).

    `several`: the outcome is an index too.
    """

    root: Descriptor
    index: Index | None
    entries: tuple[Descriptor, ...]
    several: bool

    @property
    def origin(self) -> Descriptor:
        """What the document with the tag is a conversion of."""
        return self.root if self.several else self.entries[0]


@dataclass(frozen=True, slots=True)
class Finished:
    """An image whose layers are in the destination, bottom first."""

    plan: ImagePlan
    vsize_bytes: int
    notes: tuple[str, ...]
    layers: tuple[tuple[Made, LayerResult], ...]


def publish(
    source: ImageSource,
    destination: ImageDestination,
    wanted: Wanted,
    finished: Sequence[Finished],
    options: Options,
) -> Result:
    """Puts configurations and manifests there, and then the one that has the tag. Raises `OSError`."""
    made: dict[str, Descriptor] = {}
    images = []
    for image in finished:
        manifest, config = _documents(image, options)
        data = manifest.encode()
        descriptor = Descriptor.of(data, manifest.media_type)
        destination.put_blob(manifest.config, config)
        destination.put_manifest(descriptor, data, None if wanted.several else destination.tag)
        made[image.plan.entry.digest] = descriptor
        images.append(_image_result(image, descriptor))
    root = descriptor
    if wanted.several:
        assert wanted.index is not None
        index = index_of(wanted.index, wanted.root, made, options)
        for entry in index.manifests:
            if is_attached(entry):
                carry(source, destination, entry)
        data = index.encode()
        root = Descriptor.of(data, index.media_type)
        destination.put_manifest(root, data, destination.tag)
    return Result(root.digest, root.size, root.media_type, False, tuple(images))


def _documents(image: Finished, options: Options) -> tuple[Manifest, bytes]:
    steps = image.plan.steps
    layers = [
        layer_descriptor(step, made, options.fs) for step, (made, _) in zip(steps, image.layers, strict=True)
    ]
    config = config_of(image.plan.config, [made.diff_id for made, _ in image.layers])
    return manifest_of(image.plan, config, layers, options), config


def _image_result(image: Finished, descriptor: Descriptor) -> ImageResult:
    return ImageResult(
        image.plan.platform,
        descriptor.digest,
        descriptor.size,
        image.plan.entry.digest,
        tuple(result for _, result in image.layers),
        image.vsize_bytes,
        image.notes,
    )


def carry(source: ImageSource, destination: ImageDestination, entry: Descriptor) -> None:
    """Takes a manifest of the source, and all that it names, into the destination as it is."""
    data = source.manifest(entry)
    document = parse_manifest(data, entry.media_type)
    if isinstance(document, Index):
        for each in document.manifests:
            carry(source, destination, each)
    else:
        for blob in document.blobs:
            carry_blob(source, destination, blob)
    destination.put_manifest(entry, data, None)


def carry_blob(source: ImageSource, destination: ImageDestination, blob: Descriptor) -> None:
    """Takes a blob of the source into the destination, without its bytes coming here if that is possible."""
    if not destination.has_blob(blob) and not destination.mount_blob(blob, source):
        with source.blob(blob) as stream:
            destination.put_blob(blob, stream)


def unchanged(destination: ImageDestination, wanted: Wanted, options: Options) -> Result | None:
    """What the tag of the destination has if it is what a conversion would make; else None."""
    if not destination.tag:
        return None
    data = destination.manifest(destination.tag)
    document = None if data is None else parse_manifest(data)
    if document is None or not _made_so(document, wanted.origin.digest, options):
        return None
    assert data is not None
    root = Descriptor.of(data, document.media_type)
    if isinstance(document, Manifest):
        image = _there(destination, root, document)
        return None if image is None else Result(root.digest, root.size, root.media_type, True, (image,))
    images = []
    for entry in document.manifests:
        found = destination.manifest(entry.digest)
        if found is None:
            return None
        manifest = parse_manifest(found, entry.media_type)
        if isinstance(manifest, Manifest) and SOURCE in manifest.annotations:
            image = _there(destination, entry, manifest)
            if image is None:
                return None
            images.append(image)
    if {image.source for image in images} != {entry.digest for entry in wanted.entries}:
        return None
    return Result(root.digest, root.size, root.media_type, True, tuple(images))


def _made_so(document: Manifest | Index, source: str, options: Options) -> bool:
    wanted = made_of(source, options)
    return all(document.annotations.get(name) == value for name, value in wanted.items())


def _there(destination: ImageDestination, entry: Descriptor, manifest: Manifest) -> ImageResult | None:
    """The image of a manifest, if all of its blobs are there."""
    if not all(destination.has_blob(blob) for blob in manifest.blobs):
        return None
    layers = tuple(LayerResult(layer.digest, layer.size, "", "reused") for layer in manifest.layers)
    platform = str(entry.platform) if entry.platform else ""
    return ImageResult(platform, entry.digest, entry.size, manifest.annotations[SOURCE], layers)
