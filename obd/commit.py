"""What was written to an image becomes a layer of a new one: its upper, and what snapshots have sealed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import obdcore
from obd.convert.documents import PARAMETERS, SOURCE
from obd.convert.layer import digest_of_file
from obd.errors import ObdError
from obd.locate import Source, locate
from obd.oci.copy import chosen
from obd.oci.descriptor import Descriptor
from obd.oci.fields import encode, parse
from obd.oci.layers import BLOB_DIGEST, BLOB_SIZE, FS_TYPE, NATIVE_VERSION, VERSION, layer_kind
from obd.oci.limits import MAX_MANIFEST_BYTES
from obd.oci.manifest import Manifest, parse_manifest
from obd.oci.media import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from obd.oci.trees import (
    TREE_KEYS,
    LayerTree,
    add_tree,
    can_have_tree,
    carry_leaves,
    put_referrer,
    tree_of,
)

if TYPE_CHECKING:
    from obd.config import ImageConfig
    from obd.convert.work import Work
    from obd.oci.platform import Platform
    from obd.oci.protocols import ImageDestination, ImageSource
    from obd.oci.registry_source import RegistrySource

# `told(name, doing, done, total)` counts bytes of a layer: "committing", "pushing", "copying".
Told = Callable[[str, str, int, int], None]

# The upper in messages and for `Told`.
UPPER: Final = "upper"


@dataclass(frozen=True, slots=True)
class Changes:
    """What the new image says besides. `settings` replace those of the base, by their names in its `config`.

    `created`: RFC 3339. `env`: `NAME=VALUE`.
    """

    created: str
    message: str = ""
    author: str = ""
    env: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """The image that the device was made of: its overlaybd layers, each with its diff ID, and documents."""

    source: ImageSource
    layers: tuple[tuple[Descriptor, str], ...]
    annotations: Mapping[str, str]
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CommittedLayer:
    """A layer of the new image. `how`: "there", "mounted", "copied" from elsewhere, "pushed" from here."""

    digest: str
    size: int
    how: str
    tree: LayerTree | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """The new image, with its layers, bottom first. `cut_records`: of a torn upper, left out."""

    digest: str
    size: int
    layers: tuple[CommittedLayer, ...]
    cut_records: int


@dataclass(frozen=True, slots=True)
class _Layer:
    """`path`: a file that is the blob, "" if it is elsewhere. `new`: the base has it not."""

    blob: Descriptor
    diff_id: str
    path: str
    new: bool


def open_base(source: ImageSource, wanted: Platform) -> Base:
    """The image that `source` names, of an index the one for a platform. Raises `OSError`."""
    root, data = chosen(source, *source.root(), wanted)
    manifest = parse_manifest(data, root.media_type, source.name)
    assert isinstance(manifest, Manifest)
    if manifest.config.size > MAX_MANIFEST_BYTES:
        raise ObdError("limit", f"a configuration of {manifest.config.size} bytes", source.name)
    with source.blob(manifest.config) as stream:
        config = parse(stream.read(), "image configuration")
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(manifest.layers):
        raise ObdError("corrupt", "the image configuration has other layers than the manifest", source.name)
    layers = tuple(
        (layer, str(diff_id))
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
        if layer_kind(layer) != "acceleration"
    )
    return Base(source, layers, manifest.annotations, config)


def commit_image(
    config: ImageConfig,
    destination: ImageDestination,
    work: Work,
    changes: Changes,
    told: Told,
    *,
    base: Base | None,
    lowers: RegistrySource | None,
    platform: Platform,
    compress: Mapping[str, Any],
    upper: bool = True,
    merkle: bool = False,
) -> Committed:
    """Makes an image of the layers that `config` names, the upper (unless `upper` is false) as the last.

    base: what to extend; without one there is no configuration of the image but `platform` and the changes.
    merkle: layers get hash trees, as they do where those of the base have them.
    lowers: the repository of remote lowers. What the destination has is not sent again; its tag changes last.
    Raises `OSError`: "busy" for an upper in use, "invalid" for layers that are not those of `base`.
    """
    layers, cut = _Plan(config, work, base, lowers, compress, told).layers(upper=upper)
    sources = _sources(base, lowers)
    merkle = merkle or any(tree_of(layer.blob) for layer in layers)
    done = tuple(_place(layer, destination, sources, told) for layer in layers)
    blobs = [_proven(layer, destination, sources) if merkle else layer.blob for layer in layers]
    done = tuple(replace(one, tree=tree_of(blob)) for one, blob in zip(done, blobs, strict=True))
    made = encode(_image_config(base, platform, layers, changes))
    annotations = base.annotations if base else {}
    manifest = Manifest(
        Descriptor.of(made, OCI_CONFIG),
        tuple(blobs),
        # It is no longer what a conversion made.
        {key: value for key, value in annotations.items() if key not in (SOURCE, PARAMETERS)},
        OCI_MANIFEST,
    )
    data = manifest.encode()
    root = Descriptor.of(data, OCI_MANIFEST)
    destination.put_blob(manifest.config, made)
    put_referrer(destination, root, blobs)
    destination.put_manifest(root, data, destination.tag)
    return Committed(root.digest, root.size, done, cut)


class _Plan:
    """The layers of the new image, those that are no blobs yet made ones in files of `work`."""

    def __init__(
        self,
        config: ImageConfig,
        work: Work,
        base: Base | None,
        remote: RegistrySource | None,
        compress: Mapping[str, Any],
        told: Told,
    ) -> None:
        self._config = config
        self._work = work
        self._base = base
        self._remote = remote
        self._compress = compress
        self._told = told
        # Of the layer below: what is above it is on the same file system.
        self._fs = ""

    def layers(self, *, upper: bool) -> tuple[list[_Layer], int]:
        """Bottom first, and how many records of the upper were torn."""
        config = self._config
        if upper and not config.writable:
            raise ObdError("invalid", "it has no upper: nothing can have been written to it", config.file)
        if config.upper.target:
            raise ObdError("unsupported", "the upper is one of turboOCI", config.file)
        found = locate(config)
        known = self._base.layers if self._base else ()
        if len(found) < len(known):
            self._other(f"it has {len(found)} layers, the base {len(known)}")
        layers = []
        for at, source in enumerate(found):
            layer = self._known(source, *known[at]) if at < len(known) else self._lower(source)
            self._fs = layer.blob.annotations.get(FS_TYPE, self._fs)
            layers.append(layer)
        if not upper:
            return layers, 0
        last, cut = self._pack(config.upper.data, config.upper.index, UPPER)
        return [*layers, last], cut

    def _known(self, source: Source, blob: Descriptor, diff_id: str) -> _Layer:
        digest = source.lower.digest
        if not digest and source.path:
            digest = digest_of_file(source.path, lambda _done, _total: None)
        if digest != blob.digest:
            self._other(
                f"lowers[{source.position}] is {digest or 'nowhere'}, layer of the base {blob.digest}"
            )
        return _Layer(blob, diff_id, source.path, new=False)

    def _other(self, what: str) -> None:
        raise ObdError("invalid", f"the device was not made of the base: {what}", self._config.file)

    def _lower(self, source: Source) -> _Layer:
        lower, name = source.lower, f"lowers[{source.position}]"
        if lower.has_target:
            what = f"{name}: a layer of turboOCI that is not one of a base"
            raise ObdError("unsupported", what, self._config.file)
        if lower.digest:
            size = lower.size_bytes or self._size(lower.digest)
            return _Layer(
                self._named(lower.digest, size), lower.digest, source.path, new=self._base is not None
            )
        if not source.path:
            raise ObdError("not-found", f"{name}: in none of its places", self._config.file)
        info = obdcore.layer_info(source.path)
        if "tar" in info and "zfile" in info:
            digest = digest_of_file(source.path, lambda _done, _total: None)
            return _Layer(self._named(digest, info["size"]), digest, source.path, new=True)
        return self._pack(source.path, None, name)[0]

    def _size(self, digest: str) -> int:
        size = self._remote.repository.blob_size(digest) if self._remote else None
        if not size or size < 0:
            raise ObdError("not-found", f"{digest}: nobody knows its size", self._config.file)
        return size

    def _pack(self, data: str, index: str | None, name: str) -> tuple[_Layer, int]:
        """Makes a blob of a writable or a sealed layer."""
        path = self._work.temporary(f"{name}.layer")
        with open(path, "xb") as file:
            try:
                done = obdcore.lsmt_commit(
                    data,
                    index,
                    file.fileno(),
                    compress=self._compress,
                    tar=True,
                    progress=lambda at, total: self._told(name, "committing", at, total),
                )
            except obdcore.Error as error:
                if error.errno != errno.EBUSY:
                    raise
                what = "the upper is in use: detach the device, or take a snapshot and commit with --no-upper"
                raise ObdError("busy", what, data) from None
        digest = digest_of_file(path, lambda _done, _total: self._told(name, "committing", 0, 0))
        layer = _Layer(self._named(digest, done["stored_size"]), digest, path, new=True)
        return layer, done["cut_records"]

    def _named(self, digest: str, size: int) -> Descriptor:
        own = {VERSION: NATIVE_VERSION, BLOB_DIGEST: digest, BLOB_SIZE: str(size)}
        return Descriptor(OCI_LAYER, digest, size, own | ({FS_TYPE: self._fs} if self._fs else {}))


def _sources(base: Base | None, lowers: RegistrySource | None) -> list[ImageSource]:
    return [source for source in (lowers, base.source if base else None) if source is not None]


def _place(
    layer: _Layer, destination: ImageDestination, sources: list[ImageSource], told: Told
) -> CommittedLayer:
    """Has the destination get a layer, in the cheapest way."""
    blob = layer.blob

    def tell(doing: str) -> Callable[[int, int], None]:
        return lambda done, total: told(blob.digest, doing, done, total)

    def outcome(how: str) -> CommittedLayer:
        return CommittedLayer(blob.digest, blob.size, how)

    if destination.has_blob(blob):
        return outcome("there")
    if layer_kind(blob) == "turboOCI":
        what = f"{blob.digest}: a layer of turboOCI, which only its own repository can have on top of it"
        raise ObdError("unsupported", what, destination.name)
    if any(destination.mount_blob(blob, source) for source in sources):
        return outcome("mounted")
    if _is_blob(layer):
        destination.put_blob(blob, layer.path, tell("pushing"))
        return outcome("pushed")
    if not sources:
        raise ObdError("not-found", "no file here is this layer, and there is no repository", blob.digest)
    with sources[0].blob(blob) as stream:
        destination.put_blob(blob, stream, tell("copying"))
    return outcome("copied")


def _proven(layer: _Layer, destination: ImageDestination, sources: list[ImageSource]) -> Descriptor:
    """The layer with its hash tree, whose leaves are in the destination now."""
    if not can_have_tree(layer.blob) or any(carry_leaves(each, destination, layer.blob) for each in sources):
        return layer.blob
    bare = {key: value for key, value in layer.blob.annotations.items() if key not in TREE_KEYS}
    content = open(layer.path, "rb") if _is_blob(layer) else sources[0].blob(layer.blob)  # noqa: SIM115
    return add_tree(destination, replace(layer.blob, annotations=bare), content)


def _is_blob(layer: _Layer) -> bool:
    """Whether the file of a layer is its blob, and not, say, the same layer without a tar around it."""
    if not layer.path or os.path.getsize(layer.path) != layer.blob.size:
        return False
    return digest_of_file(layer.path, lambda _done, _total: None) == layer.blob.digest


def _image_config(
    base: Base | None, platform: Platform, layers: list[_Layer], changes: Changes
) -> dict[str, Any]:
    """The configuration of the base, with what is new."""
    found: dict[str, Any] = dict(base.config) if base else {**platform.to_json(), "config": {}}
    settings = found.get("config")
    settings = dict(settings) if isinstance(settings, dict) else {}
    settings |= changes.settings or {}
    if changes.env:
        names = {word.partition("=")[0] for word in changes.env}
        old = settings.get("Env")
        kept = (
            [word for word in old if str(word).partition("=")[0] not in names]
            if isinstance(old, list)
            else []
        )
        settings["Env"] = [*kept, *changes.env]
    history = found.get("history")
    said = {"created": changes.created, "created_by": "obd commit"}
    said |= {"author": changes.author} if changes.author else {}
    said |= {"comment": changes.message} if changes.message else {}
    entries = [said for layer in layers if layer.new or base is None]
    return {
        **found,
        "created": changes.created,
        **({"author": changes.author} if changes.author else {}),
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [*(history if isinstance(history, list) else []), *entries],
    }
