"""An image in an OCI layout, a directory or an archive, as a source."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from obd.errors import ObdError
from obd.oci.digest import Verified, check
from obd.oci.layout import blob_name, find, read_index
from obd.oci.manifest import parse_manifest
from obd.oci.protocols import ImageSource

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.store import Store


class LayoutSource(ImageSource):
    """The image `tag` of a layout, "" for the only one. It is looked up by `root`."""

    def __init__(self, store: Store, tag: str) -> None:
        self._store: Final = store
        self._tag: Final = tag
        self.name = f"{store.name}:{tag}" if tag else store.name

    def root(self) -> tuple[Descriptor, bytes]:
        """As `ImageSource.root`."""
        entry = find(read_index(self._store), self._tag, self._store.name)
        data = self.manifest(entry)
        parsed = parse_manifest(data, entry.media_type, self.name)
        return replace(entry, media_type=parsed.media_type, annotations={}), data

    def manifest(self, descriptor: Descriptor) -> bytes:
        """As `ImageSource.manifest`."""
        name = blob_name(descriptor.digest)
        return check(self._store.read(name), descriptor, f"{self._store.name}/{name}")

    def blob(self, descriptor: Descriptor) -> BinaryIO:
        """As `ImageSource.blob`."""
        name = blob_name(descriptor.digest)
        verified = Verified(self._store.open(name), descriptor, f"{self._store.name}/{name}")
        return cast(BinaryIO, io.BufferedReader(verified, 1 << 20))

    def path(self, descriptor: Descriptor) -> str | None:
        """As `ImageSource.path`."""
        return self._store.path(blob_name(descriptor.digest))

    def referrers(self, descriptor: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """As `ImageSource.referrers`: of the entries of the index."""
        found = {}
        for entry in read_index(self._store).manifests:
            try:
                parsed = parse_manifest(self.manifest(entry), entry.media_type)
            except ObdError:
                continue
            kind = parsed.artifact_type or entry.artifact_type
            if parsed.subject and parsed.subject.digest == descriptor.digest and artifact_type in ("", kind):
                found[entry.digest] = replace(entry, artifact_type=kind)
        return tuple(found.values())

    def close(self) -> None:
        """As `ImageSource.close`."""
        self._store.close()
