"""An archive as a destination: a tar of an OCI layout, with or without what Docker wants besides."""

from __future__ import annotations

import os
import tarfile
import threading
from typing import TYPE_CHECKING, Final

from obd.errors import ObdError, kind_of
from obd.oci.content import pieces
from obd.oci.descriptor import Descriptor
from obd.oci.digest import is_digest
from obd.oci.layout import INDEX, MARK, MARK_CONTENT, blob_name, check_tag, find, with_entry
from obd.oci.manifest import Index
from obd.oci.protocols import ImageDestination
from obd.oci.temporary import Temporary, clear, sync_directory, write_all

if TYPE_CHECKING:
    from obd.oci.protocols import Content, Progress

_BLOCK: Final = 512


class ArchiveDestination(ImageDestination):
    """The tar `path`, which must not exist: it gets its name when it is closed.

    Several blobs may be written at a time, each into room of its own.
    """

    def __init__(self, path: str, tag: str) -> None:
        check_tag(tag)
        self.name = f"{path}:{tag}" if tag else path
        self.tag = tag
        self._path: Final = path
        if os.path.lexists(path):
            raise ObdError("exists", "is there already and is not overwritten", path)
        directory = os.path.dirname(path) or "."
        try:
            clear(directory)
        except OSError as error:
            raise ObdError(kind_of(error), error.strerror or "cannot be listed", directory) from None
        self._file: Final = Temporary(directory)
        self._lock: Final = threading.Lock()
        self._end = 0
        # Where each member begins, with its header, and whether its bytes are all there.
        self._room: Final[dict[str, tuple[int, bytes]]] = {}
        self._whole: Final[set[str]] = set()
        self._manifests: Final[dict[str, bytes]] = {}
        self._index = Index(())

    def has_blob(self, descriptor: Descriptor) -> bool:
        """As `ImageDestination.has_blob`."""
        with self._lock:
            return blob_name(descriptor.digest) in self._whole

    def put_blob(self, descriptor: Descriptor, content: Content, progress: Progress | None = None) -> None:
        """As `ImageDestination.put_blob`. A failed one may be tried again."""
        if self.has_blob(descriptor):
            return
        name = blob_name(descriptor.digest)
        at = self._make_room(name, descriptor.size)
        for piece in pieces(descriptor, content, progress):
            self._write(piece, at)
            at += len(piece)
        with self._lock:
            self._whole.add(name)

    def put_manifest(self, descriptor: Descriptor, data: bytes, tag: str | None) -> None:
        """As `ImageDestination.put_manifest`."""
        self.put_blob(descriptor, data)
        with self._lock:
            self._manifests[descriptor.digest] = data
            if tag is not None:
                check_tag(tag)
                self._index = with_entry(self._index, descriptor, tag)

    def manifest(self, reference: str) -> bytes | None:
        """As `ImageDestination.manifest`."""
        with self._lock:
            if is_digest(reference):
                return self._manifests.get(reference)
            try:
                return self._manifests.get(find(self._index, reference, self.name).digest)
            except ObdError:
                return None

    def close(self) -> None:
        """As `ImageDestination.close`. Also "invalid" if no image is in it, and "exists"."""
        with self._file:
            lacking = self._room.keys() - self._whole
            if lacking or not self._index.manifests:
                what = f"{len(lacking)} blobs are not whole" if lacking else "no image was put into it"
                raise ObdError("invalid", what, self._path)
            for name, data in self.documents().items():
                self._write(data, self._make_room(name, len(data)))
            # The end of a tar: two empty blocks, and none that is not whole.
            self._write(bytes(2 * _BLOCK), self._end)
            self._file.publish(self._path, replace=False)
        sync_directory(os.path.dirname(self._path) or ".")

    def discard(self) -> None:
        """As `ImageDestination.discard`: nothing is left of it."""
        self._file.close()

    def documents(self) -> dict[str, bytes]:
        """What is put into the archive besides the blobs."""
        return {INDEX: self._index.encode(), MARK: MARK_CONTENT}

    def manifest_of(self, digest: str) -> bytes | None:
        """A manifest that was put into the archive."""
        return self._manifests.get(digest)

    @property
    def entries(self) -> tuple[Descriptor, ...]:
        """The images of the archive."""
        return self._index.manifests

    def _make_room(self, name: str, size: int) -> int:
        """Writes the header of a member; returns where its bytes go."""
        with self._lock:
            if name not in self._room:
                member = tarfile.TarInfo(name)
                member.size = size
                header = member.tobuf(tarfile.PAX_FORMAT)
                self._room[name] = self._end, header
                self._end += len(header) + -(-size // _BLOCK) * _BLOCK
            start, header = self._room[name]
        # Each time: it may be the header that could not be written before.
        self._write(header, start)
        return start + len(header)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        try:
            write_all(self._file.fd, data, at)
        except OSError as error:
            raise ObdError(kind_of(error), error.strerror or "cannot be written", self._path) from None
