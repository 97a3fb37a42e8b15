"""An OCI layout directory as a destination, whole at any moment, also for others that write to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from obd.errors import ObdError, kind_of
from obd.oci.content import pieces
from obd.oci.descriptor import Descriptor
from obd.oci.digest import is_digest
from obd.oci.layout import (
    BLOBS,
    INDEX,
    MARK,
    MARK_CONTENT,
    blob_name,
    check_tag,
    find,
    read_index,
    with_entry,
)
from obd.oci.manifest import Index
from obd.oci.protocols import ImageDestination
from obd.oci.store import Directory
from obd.oci.temporary import Temporary, clear, is_temporary, sync_directory, write_all

if TYPE_CHECKING:
    from obd.oci.protocols import Content, Progress

# How long others may keep the index to themselves.
_WAIT_S: Final = 30.0
_LOOK_S: Final = 0.02


class LayoutDestination(ImageDestination):
    """The layout in the directory `path`, which is made if it is not there."""

    def __init__(self, path: str, tag: str) -> None:
        check_tag(tag)
        self.name = f"{path}:{tag}" if tag else path
        self.tag = tag
        self._path: Final = path
        self._store: Final = Directory(path)
        with _said(path):
            os.makedirs(path, exist_ok=True)
            if not os.path.exists(os.path.join(path, MARK)):
                self._create()
            read_index(self._store)
            clear(path)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """As `ImageDestination.has_blob`: one of another size counts as broken."""
        try:
            return self._store.size(blob_name(descriptor.digest)) == descriptor.size
        except ObdError:
            return False

    def put_blob(self, descriptor: Descriptor, content: Content, progress: Progress | None = None) -> None:
        """As `ImageDestination.put_blob`."""
        if self.has_blob(descriptor):
            if progress:
                progress(descriptor.size, descriptor.size)
            return
        target = os.path.join(self._path, blob_name(descriptor.digest))
        with Temporary(self._path) as file:
            at = 0
            for piece in pieces(descriptor, content, progress):
                with _said(self._path):
                    write_all(file.fd, piece, at)
                at += len(piece)
            with _said(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
            file.publish(target, replace=True)

    def put_manifest(self, descriptor: Descriptor, data: bytes, tag: str | None) -> None:
        """As `ImageDestination.put_manifest`."""
        self.put_blob(descriptor, data)
        if tag is None:
            return
        check_tag(tag)
        with self._locked():
            index = with_entry(read_index(self._store), descriptor, tag)
            # The blobs that it names before it.
            for algorithm in os.listdir(os.path.join(self._path, BLOBS)):
                sync_directory(os.path.join(self._path, BLOBS, algorithm))
            self._write(INDEX, index.encode())

    def manifest(self, reference: str) -> bytes | None:
        """As `ImageDestination.manifest`."""
        try:
            if is_digest(reference):
                name = blob_name(reference)
            else:
                name = blob_name(find(read_index(self._store), reference, self.name).digest)
            return self._store.read(name)
        except ObdError as error:
            if error.kind == "not-found":
                return None
            raise

    def close(self) -> None:
        """Nothing is left to do: everything counts as soon as it is there."""

    def discard(self) -> None:
        """What was written stays: blobs that nothing names do no harm."""

    def _create(self) -> None:
        with self._locked():
            names = {name for name in os.listdir(self._path) if not is_temporary(name)}
            if MARK in names:
                return
            if names - {BLOBS, INDEX}:
                raise ObdError("invalid", "neither an OCI layout nor empty", self._path)
            os.makedirs(os.path.join(self._path, BLOBS, "sha256"), exist_ok=True)
            if INDEX not in names:
                self._write(INDEX, Index(()).encode())
            # Last: it says that all is there.
            self._write(MARK, MARK_CONTENT)

    def _write(self, name: str, data: bytes) -> None:
        with Temporary(self._path) as file:
            with _said(self._path):
                write_all(file.fd, data, 0)
            file.publish(os.path.join(self._path, name), replace=True)
        sync_directory(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other writers of the index out. The directory itself is the lock: it needs no file."""
        with _said(self._path):
            fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            end = time.monotonic() + _WAIT_S
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise ObdError("busy", "another program keeps it locked", self._path) from None
                    time.sleep(_LOOK_S)
            yield
        finally:
            os.close(fd)


@contextlib.contextmanager
def _said(path: str) -> Iterator[None]:
    """Says of what the operating system refuses where it was."""
    try:
        yield
    except ObdError:
        raise
    except OSError as error:
        raise ObdError(kind_of(error), error.strerror or str(error), error.filename or path) from None
