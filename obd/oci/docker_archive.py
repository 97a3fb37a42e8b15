"""Docker's archives: what `docker save` and skopeo write, as a source, and one of ours for `docker load`."""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from obd.errors import ObdError
from obd.oci import fields
from obd.oci.archive_destination import ArchiveDestination
from obd.oci.descriptor import Descriptor
from obd.oci.digest import Verified, check, hasher, is_digest
from obd.oci.layout import INDEX, MARK, REF_NAME, blob_name, find, read_index
from obd.oci.layout_source import LayoutSource
from obd.oci.limits import MAX_LAYERS, MAX_MANIFESTS
from obd.oci.manifest import Manifest, parse_manifest
from obd.oci.media import OCI_CONFIG, OCI_LAYER, layer_type
from obd.oci.protocols import ImageSource

if TYPE_CHECKING:
    from obd.oci.tar import Tar

MANIFEST: Final = "manifest.json"
_PIECE_BYTES: Final = 1 << 20


def open_docker_archive(store: Tar, tag: str) -> ImageSource:
    """The image `tag` of an archive, `NAME:TAG` or either of them; "" for the only one.

    An archive that is an OCI layout too, as those of newer Dockers are, gives its manifests as they are.
    """
    if INDEX in store and MARK in store:
        with contextlib.suppress(ObdError):
            find(read_index(store), tag, store.name)
            return LayoutSource(store, tag)
    return DockerArchive(store, tag)


class DockerArchive(ImageSource):
    """An image of which the archive has configuration and layers; the manifest is made here.

    The layers are not compressed, so their digests are those in the configuration; others are digested.
    """

    def __init__(self, store: Tar, tag: str) -> None:
        self._store: Final = store
        self._tag: Final = tag
        self._made: tuple[Descriptor, bytes] | None = None
        # The member that a blob is.
        self._members: Final[dict[str, str]] = {}
        self.name = f"{store.name}:{tag}" if tag else store.name

    def root(self) -> tuple[Descriptor, bytes]:
        """As `ImageSource.root`."""
        if self._made is None:
            with fields.at(self.name):
                manifest = self._manifest()
            self._made = manifest.descriptor(), manifest.encode()
        return self._made

    def manifest(self, descriptor: Descriptor) -> bytes:
        """As `ImageSource.manifest`."""
        known, data = self.root()
        if descriptor.digest != known.digest:
            raise ObdError("not-found", f"there is no {descriptor.digest}", self.name)
        return check(data, descriptor, self.name)

    def blob(self, descriptor: Descriptor) -> BinaryIO:
        """As `ImageSource.blob`."""
        self.root()
        member = self._members.get(descriptor.digest)
        if member is None:
            raise ObdError("not-found", f"there is no {descriptor.digest}", self.name)
        verified = Verified(self._store.open(member), descriptor, f"{self._store.name}/{member}")
        return cast(BinaryIO, io.BufferedReader(verified, 1 << 20))

    def close(self) -> None:
        """As `ImageSource.close`."""
        self._store.close()

    def _manifest(self) -> Manifest:
        entry = self._entry()
        name = fields.text(entry, "Config", MANIFEST)
        data = self._store.read(name)
        diff_ids = _diff_ids(fields.parse(data, "configuration"))
        members = fields.items(entry, "Layers", MANIFEST, MAX_LAYERS)
        if len(members) != len(diff_ids):
            fields.corrupt(f"{len(members)} layers, but {len(diff_ids)} in the configuration")
        layers = tuple(self._layer(*each) for each in zip(members, diff_ids, strict=True))
        config = Descriptor.of(data, OCI_CONFIG)
        self._members[config.digest] = name
        return Manifest(config, layers)

    def _entry(self) -> dict[str, Any]:
        """What the archive says of the image."""
        wrapped = b'{"images":' + self._store.read(MANIFEST) + b"}"
        images = fields.items(fields.parse(wrapped, MANIFEST), "images", MANIFEST, MAX_MANIFESTS)
        entries = [fields.object_of(image, MANIFEST) for image in images]
        if not self._tag and len(entries) == 1:
            return entries[0]
        names = [_names(entry) for entry in entries]
        for fits in (_is_name, _is_part):
            for entry, known in zip(entries, names, strict=True):
                if self._tag and any(fits(name, self._tag) for name in known):
                    return entry
        what = f"no image {self._tag}" if self._tag else f"{len(entries)} images: say which"
        have = ", ".join(name for known in names for name in known)
        raise ObdError("not-found", f"{what}; there are: {have or 'none'}"[:500])

    def _layer(self, member: object, diff_id: str) -> Descriptor:
        if not isinstance(member, str):
            fields.corrupt(f"{fields.shown(member)} is no name of a layer")
        with contextlib.closing(self._store.open(member)) as file:
            start = file.read(4)
            media_type = layer_type(start)
            digest = diff_id
            if media_type != OCI_LAYER:
                found = hasher("sha256:")
                while start:
                    found.update(start)
                    start = file.read(_PIECE_BYTES)
                digest = f"sha256:{found.hexdigest()}"
        self._members[digest] = member
        return Descriptor(media_type, digest, self._store.size(member))


class DockerArchiveDestination(ArchiveDestination):
    """An archive for `docker load` that is an OCI layout too, so that all digests stay what they are.

    It takes one image, not an index. A name without a tag is one with `latest`.
    """

    def documents(self) -> dict[str, bytes]:
        """As `ArchiveDestination.documents`."""
        images = []
        for entry in self.entries:
            data = self.manifest_of(entry.digest) or b""
            found = parse_manifest(data, entry.media_type, self.name)
            if not isinstance(found, Manifest):
                raise ObdError("unsupported", "Docker's archives hold images for one platform", self.name)
            tag = entry.annotations.get(REF_NAME, "")
            images.append(
                {
                    "Config": blob_name(found.config.digest),
                    "RepoTags": [_with_tag(tag)] if tag else [],
                    "Layers": [blob_name(layer.digest) for layer in found.layers],
                }
            )
        content = json.dumps(images, separators=(",", ":")).encode()
        return {**super().documents(), MANIFEST: content}


def _diff_ids(config: dict[str, Any]) -> list[str]:
    rootfs = fields.object_of(config.get("rootfs"), "rootfs")
    found = fields.items(rootfs, "diff_ids", "rootfs", MAX_LAYERS)
    if not all(is_digest(each) for each in found):
        fields.corrupt("rootfs.diff_ids has what is no digest")
    return found


def _names(entry: dict[str, Any]) -> list[str]:
    found = entry.get("RepoTags")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _is_name(name: str, tag: str) -> bool:
    return name.removeprefix("docker.io/").removeprefix("library/") in (tag, f"{tag}:latest") or name == tag


def _is_part(name: str, tag: str) -> bool:
    return name.rpartition("/")[2].rpartition(":")[2] == tag


def _with_tag(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
