"""Documents of what was converted, put into the destination, the tag last; or found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from obd.convert.beside import beside, index_beside
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
from obd.errors import ObdError
from obd.oci.descriptor import Descriptor
from obd.oci.layers import layer_kind
from obd.oci.limits import MAX_INDEX_DEPTH, MAX_MANIFESTS
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.platform import Platform
from obd.oci.trees import put_referrer, tree_of

if TYPE_CHECKING:
    from obd.convert.options import Options
    from obd.convert.plan import ImagePlan
    from obd.convert.record import Made
    from obd.oci.protocols import ImageDestination, ImageSource
    from obd.oci.trees import LayerTree


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
    trees: tuple[LayerTree | None, ...] = ()


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
    alone = not wanted.several and not options.index
    for image in finished:
        manifest, config = _documents(image, options)
        data = manifest.encode()
        descriptor = Descriptor.of(data, manifest.media_type)
        destination.put_blob(manifest.config, config)
        put_referrer(destination, descriptor, manifest.layers)
        destination.put_manifest(descriptor, data, destination.tag if alone else None)
        made[image.plan.entry.digest] = descriptor
        images.append(_image_result(image, descriptor))
    if options.turbo:
        # Whose layers these images are read from: by their manifests registries know that they are wanted.
        for entry in wanted.entries:
            carry(source, destination, entry)
    root = descriptor if alone else _publish_index(source, destination, wanted, finished, made, options)
    return Result(root.digest, root.size, root.media_type, False, tuple(images))


def _publish_index(
    source: ImageSource,
    destination: ImageDestination,
    wanted: Wanted,
    finished: Sequence[Finished],
    made: Mapping[str, Descriptor],
    options: Options,
) -> Descriptor:
    if options.index:
        originals = [_with_platform(image.plan) for image in finished]
        index = index_beside(_index_there(destination), originals, made, options)
        kept = originals
    else:
        assert wanted.index is not None
        index = index_of(wanted.index, wanted.root, made, options)
        kept = [entry for entry in index.manifests if is_attached(entry)]
    for entry in kept:
        carry(source, destination, entry)
    data = index.encode()
    root = Descriptor.of(data, index.media_type)
    destination.put_manifest(root, data, destination.tag)
    return root


def _with_platform(plan: ImagePlan) -> Descriptor:
    return replace(plan.entry, platform=plan.entry.platform or Platform.parse(plan.platform))


def _index_there(destination: ImageDestination) -> Index | None:
    """The index that the tag of the destination names, if it does."""
    data = destination.manifest(destination.tag) if destination.tag else None
    there = None if data is None else parse_manifest(data, where=destination.name)
    return there if isinstance(there, Index) else None


def _documents(image: Finished, options: Options) -> tuple[Manifest, bytes]:
    steps = image.plan.steps
    trees = image.trees or (None,) * len(steps)
    layers = [
        layer_descriptor(step, made, options.fs, tree)
        for step, (made, _), tree in zip(steps, image.layers, trees, strict=True)
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
    """Takes a manifest of the source, and all that it names, into the destination as it is.

    Raises `OSError`; "limit" for indexes that nobody makes.
    """
    _carry(source, destination, entry, set(), 0)


def _carry(
    source: ImageSource, destination: ImageDestination, entry: Descriptor, seen: set[str], depth: int
) -> None:
    seen.add(entry.digest)
    if depth > MAX_INDEX_DEPTH or len(seen) > MAX_MANIFESTS:
        raise ObdError("limit", f"{entry.digest}: too many indexes in indexes, or manifests", source.name)
    data = source.manifest(entry)
    document = parse_manifest(data, entry.media_type)
    if isinstance(document, Index):
        for each in document.manifests:
            if each.digest not in seen:
                _carry(source, destination, each, seen, depth + 1)
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
    data = destination.manifest(destination.tag) if destination.tag else None
    if data is None:
        return None
    try:
        document = parse_manifest(data)
    except ObdError:
        # Of another kind, or of a time long past: it loses the tag as any other image would.
        return None
    entries = _converted(document, wanted, options)
    images = []
    for entry in (Descriptor.of(data, document.media_type),) if entries is None else entries:
        found = data if entries is None else destination.manifest(entry.digest)
        manifest = None if found is None else parse_manifest(found, entry.media_type)
        if not isinstance(manifest, Manifest) or SOURCE not in manifest.annotations:
            return None
        image = _there(destination, entry, manifest)
        if image is None:
            return None
        images.append(image)
    if {image.source for image in images} != {entry.digest for entry in wanted.entries}:
        return None
    root = Descriptor.of(data, document.media_type)
    return Result(root.digest, root.size, root.media_type, True, tuple(images))


def _converted(document: Manifest | Index, wanted: Wanted, options: Options) -> tuple[Descriptor, ...] | None:
    """The entries of converted images; None for a manifest that is itself one. Empty if all is different."""
    if options.index:
        if not isinstance(document, Index):
            return ()
        found = [beside(document, entry, options) for entry in wanted.entries]
        return tuple(entry for entry in found if entry is not None)
    if not _made_so(document, wanted.origin.digest, options):
        return ()
    if isinstance(document, Manifest):
        return None
    return tuple(entry for entry in document.manifests if not is_attached(entry))


def _made_so(document: Manifest | Index, source: str, options: Options) -> bool:
    wanted = made_of(source, options)
    return all(document.annotations.get(name) == value for name, value in wanted.items())


def _there(destination: ImageDestination, entry: Descriptor, manifest: Manifest) -> ImageResult | None:
    """The image of a manifest, if all of its blobs are there."""
    leaves = [tree.leaves for layer in manifest.layers if (tree := tree_of(layer))]
    if not all(destination.has_blob(blob) for blob in (*manifest.blobs, *leaves)):
        return None
    turbo = any(layer_kind(layer) == "turboOCI" for layer in manifest.layers)
    # Registries hold the original layers for as long as they have their manifest.
    if turbo and destination.manifest(manifest.annotations[SOURCE]) is None:
        return None
    layers = tuple(LayerResult(layer.digest, layer.size, "", "reused") for layer in manifest.layers)
    platform = str(entry.platform) if entry.platform else ""
    return ImageResult(platform, entry.digest, entry.size, manifest.annotations[SOURCE], layers)
